"""The subject of an evaluation: the weights of a folder, and held-out stories as these weights encode them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from bvjax import policies
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.generate.checks import check_model
from bvjax.generate.conditions import Conditions, encode_captions
from bvjax.story import split_times
from bvjax.tokenizer import Tokenizer
from bvjax.weights import PARTS, TOKENIZER, load_config, load_weights
from data_pipelines.encoded.encoders import Encoders
from data_pipelines.encoded.folder import write_example
from data_pipelines.encoded.manifest import claim
from data_pipelines.storyworld import Story, make_story, num_frames, render
from data_pipelines.storyworld.latents import SHOWN, encode_story, read_story, story_file
from data_pipelines.storyworld.world import CHUNK_SECONDS

SPLIT = "heldout"


@dataclasses.dataclass(frozen=True)
class UnderTest:
    """A weights folder, perhaps with some parts only: a VAE is measured before there is a DiT."""

    folder: Path
    model: ModelConfig
    params: dict[str, Any]
    sha256: dict[str, str]  # of each file there is

    @staticmethod
    def load(folder: str | Path, overrides: tuple[str, ...] = ()) -> UnderTest:
        """Raises `UserError` for damaged weights, and for sizes that stories do not have."""
        folder = Path(folder)
        model = policies.configure(load_config(folder), overrides)
        check_model(model)
        chunk = model.chunk
        frames = CHUNK_SECONDS * chunk.fps
        if chunk.first != "separate" or chunk.frames != frames:
            raise UserError(
                f"stories have chunks of {CHUNK_SECONDS:g} s behind a frame of their own; "
                f"evaluation needs chunk.first='separate' and chunk.frames={frames:g}"
            )
        parts = tuple(part for part in PARTS if (folder / f"{part}.safetensors").exists())
        files = [f"{part}.safetensors" for part in parts]
        files += [TOKENIZER] * (folder / TOKENIZER).exists()
        hashes = {f: hashlib.sha256((folder / f).read_bytes()).hexdigest() for f in files}
        return UnderTest(folder, model, load_weights(folder, parts)[1], hashes)

    def need(self, *parts: str) -> None:
        """Raises `UserError` when a part is not in the folder."""
        missing = [part for part in parts if part not in self.params]
        if missing:
            raise UserError(f"{self.folder} has no {' and no '.join(missing)} weights, wanted here")

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer(self.folder / TOKENIZER)

    @functools.cached_property
    def encoders(self) -> Encoders:
        """The VAE and, once captions are encoded, the text encoder."""
        tokenizer = self.tokenizer if "text" in self.params else None
        return Encoders(self.model, self.params, tokenizer)

    @functools.cached_property
    def null_text(self) -> np.ndarray:
        """States [t, d] of the empty caption."""
        return self.encoders.text([""])[0][0]

    def conditions(self, story: Story, chunks: int | None = None) -> Conditions:
        """The captions of the first `chunks` chunks, encoded as generation does."""
        captions = [split_times(caption)[0] for caption in story.captions[:chunks]]
        return encode_captions(
            lambda: self.params["text"],
            self.model.text,
            self.tokenizer,
            captions,
            self.model.guidance.negative,
        )

    def frames(self, story: Story, frames: range | None = None) -> UInt8[np.ndarray, "f h w 3"]:
        """Rendered frames of a story in the model's size; all by default."""
        c = self.model.chunk
        indices = range(num_frames(story, c.fps)) if frames is None else frames
        return render(story, indices, height=c.height, width=c.width, fps=c.fps)


class EncodedStories:
    """Held-out stories as latents and text states, by seed; made when first asked for.

    With a cache folder they are kept in the form, and checked by the manifest, of
    `data_pipelines.encoded`.
    """

    def __init__(self, tested: UnderTest, cache: str | Path | None):
        """Raises `UserError` when the cache was made by other weights."""
        tested.need("vae", "text")
        self.tested, self.cache = tested, None if cache is None else Path(cache)
        if self.cache is None:
            return
        claim(self.cache, tested.folder, tested.model)

    def __getitem__(self, seed: int) -> dict[str, np.ndarray]:
        """latents, text, embedding, relevance, seen and place (`latents.encode_story`), float32."""
        path = None if self.cache is None else story_file(self.cache, SPLIT, seed)
        if path is not None and path.exists():
            stored = read_story(path, self.tested.model.text.max_length)
            return {name: array.astype(np.float32) for name, array in stored.items()}
        story = make_story(seed, SPLIT)
        item = encode_story(self.tested.encoders, story, self.tested.frames(story))
        if path is not None:
            write_example(path, item, own=SHOWN)
        return {name: value.astype(np.float32) for name, value in item.items()}

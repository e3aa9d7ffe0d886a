"""Stories as the DiT trains on them: latents, text states and who is seen where.

`data_pipelines.storyworld.encode` makes them; `data_pipelines.storyworld.loader` reads them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from safetensors.numpy import load_file

from bvjax.array_files import read_npz
from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.files import read_json, write_atomic
from bvjax.finite import is_finite
from bvjax.nets import vae
from bvjax.nets.text import UMT5Encoder, mean_embedding
from bvjax.story import split_times
from bvjax.tokenizer import Tokenizer
from bvjax.weights import TOKENIZER, load_weights
from data_pipelines.storyworld.captions import described
from data_pipelines.storyworld.truth import truth
from data_pipelines.storyworld.world import Story, num_frames

PLACE_WEIGHT = 0.3  # a shared place counts less than a shared subject in the oracle's score
DESCRIBED_STREAM = 1  # of the random numbers of `described_captions`
TRAINED_ON = ("latents", "text", "described", "embedding", "relevance")  # arrays of a story
SHOWN = ("seen", "place")  # who is shown where, for what is measured
_AGAIN = "if it is to be one, delete it and encode it again"
SEEN = 0.25  # share of a chunk's frames in which a subject must be visible to count as shown


def chunk_truth(
    story: Story, grid: ChunkGrid
) -> tuple[Float[np.ndarray, "c s"], Int[np.ndarray, "c"]]:
    """Share of each chunk's frames in which each subject is visible, and the chunk's main place."""
    c = grid.config
    frames = range(0, num_frames(story, c.fps), 4)
    facts = truth(story, frames, height=c.height, width=c.width, fps=c.fps)
    seen, place = [], []
    for chunk in grid.chunk_ids:
        start, stop = grid.frame_range(chunk)
        rows = [i for i, frame in enumerate(frames) if start <= frame < stop]
        seen.append(facts.visible[rows].mean(axis=0))
        place.append(np.bincount(facts.place[rows]).argmax())
    return np.array(seen, np.float32), np.array(place, np.int32)


def relevance_matrix(
    seen: Float[np.ndarray, "c s"], place: Int[np.ndarray, "c"]
) -> Float[np.ndarray, "c c"]:
    """Score of source chunk j for target chunk i by ground truth: shared subjects, then a shared place."""
    shared = (seen >= SEEN).astype(np.float32) @ np.where(seen >= SEEN, seen, 0.0).T
    return shared + PLACE_WEIGHT * (place[:, None] == place[None, :])


@dataclasses.dataclass(frozen=True)
class Encoders:
    """The frozen VAE and text encoder of a weights folder, jitted."""

    model: ModelConfig
    params: dict
    tokenizer: Tokenizer

    @functools.cached_property
    def _text(self):
        return jax.jit(UMT5Encoder(self.model.text).apply)

    @functools.cached_property
    def _encode(self):
        return jax.jit(
            functools.partial(vae.encode_stream, config=self.model.vae), static_argnames="first"
        )

    def text(self, captions: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """States [n, T, Dt] and mean embeddings [n, Dt] of captions without time stamps."""
        ids, mask = self.tokenizer.encode(captions, self.model.text.max_length)
        states = self._text({"params": self.params["text"]}, ids, mask)
        return np.asarray(states), np.asarray(mean_embedding(states, mask))

    def latents(self, frames: np.ndarray, piece: int = 96) -> Float[np.ndarray, "l h w z"]:
        """Normalised latents of uint8 frames [1 + 4k, H, W, 3], encoded piece by piece."""
        height, width = frames.shape[1:3]
        state = vae.init_encode_state(self.model.vae, 1, height, width)
        cuts = [0, *range(1, len(frames), piece), len(frames)]
        out = []
        for start, stop in zip(cuts, cuts[1:], strict=False):
            pixels = vae.to_float(jnp.asarray(frames[None, start:stop]))
            state, latents = self._encode(
                self.params["vae"], state=state, frames=pixels, first=start == 0
            )
            out.append(np.asarray(latents[0]))
        return np.concatenate(out)


def encode_story(encoders: Encoders, story: Story, frames: np.ndarray) -> dict[str, np.ndarray]:
    """Everything the DiT's training needs of one story; latents and text as float16."""
    grid = ChunkGrid.of(encoders.model, len(story.captions))
    states, embedding = encoders.text([split_times(c)[0] for c in story.captions])
    seen, place = chunk_truth(story, grid)
    full, _ = encoders.text(described_captions(encoders, story))
    return {
        "latents": encoders.latents(frames).astype(np.float16),
        "text": states.astype(np.float16),
        "described": full.astype(np.float16),
        "embedding": embedding.astype(np.float32),
        "relevance": relevance_matrix(seen, place),
        "seen": seen,
        "place": place,
    }


def read_story(path: Path) -> dict[str, np.ndarray]:
    """What `encode_story` made, as it was written; `seen` and `place` only where the file has them.

    Raises:
        UserError: the file is damaged, or it is not an encoded story.
    """
    try:
        found = read_npz(path)
    except FileNotFoundError:
        raise UserError(f"there is no {path}") from None
    except UserError as error:
        raise UserError(f"{error}, so it is no encoded story; {_AGAIN}") from None
    missing = [name for name in TRAINED_ON if name not in found]
    if missing:
        raise UserError(
            f"{path} is not an encoded story: it has no {', '.join(missing)}; "
            "python -m data_pipelines.storyworld.encode makes them"
        )
    wrong = _not_a_story(found)
    if wrong:
        raise UserError(f"{path} is not an encoded story: {wrong}; {_AGAIN}")
    return found


def _not_a_story(found: dict[str, np.ndarray]) -> str | None:
    """Returns the reason why arrays are not a story, None if they are one."""
    text, latents = found["text"], found["latents"]
    chunks = len(text) if text.ndim == 3 else 0
    if not chunks or latents.ndim != 4 or len(latents) <= chunks or (len(latents) - 1) % chunks:
        return f"latents {list(latents.shape)} and text {list(text.shape)} do not belong together"
    shapes: dict[str, tuple[int, ...]] = {
        "described": text.shape, "embedding": (chunks, text.shape[2]), "relevance": (chunks, chunks),
    }  # fmt: skip
    for name in (*TRAINED_ON, *SHOWN):
        array = found.get(name)
        if array is None:
            continue
        if array.dtype.kind not in "fi" or not is_finite(array):
            return f"{name} holds what is no finite number"
        if array.shape[:1] != (chunks,) and name != "latents":
            return f"{name} is {list(array.shape)} for {chunks} chunks"
        if array.shape != shapes.get(name, array.shape):
            return f"{name} is {list(array.shape)}, not {list(shapes[name])}"
    return None


def described_captions(encoders: Encoders, story: Story) -> list[str]:
    """`captions.described` of every chunk; the light goes where a caption is too long for the tokenizer."""
    rng = np.random.Generator(np.random.Philox(key=[story.seed, DESCRIBED_STREAM]))
    captions = []
    for index in range(story.n_chunks):
        text = described(rng, story, index)
        if encoders.tokenizer.count(text) > encoders.model.text.max_length:
            text = described(rng, story, index, light=False)
        captions.append(text)
    return captions


def load_encoders(folder: str | Path) -> Encoders:
    """VAE, text encoder and tokenizer of a weights folder."""
    model, params = load_weights(Path(folder), parts=("vae", "text"))
    return Encoders(model, params, Tokenizer(Path(folder) / TOKENIZER))


def manifest(folder: str | Path, model: ModelConfig) -> dict[str, str]:
    """Hashes of what the encoded stories depend on; the VAE's decoder is none of it."""
    files = {name: (Path(folder) / name).read_bytes() for name in ("text.safetensors", TOKENIZER)}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    tensors = load_file(Path(folder) / "vae.safetensors")
    encoder = hashlib.sha256()
    for name in sorted(tensors):
        if name.split("/")[0] in vae.ENCODING:
            encoder.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
            encoder.update(tensors[name].tobytes())
    normalised = (model.vae.latent_mean, model.vae.latent_std, model.vae.latent_scale)
    if model.vae.first_std:
        normalised += (model.vae.first_mean, model.vae.first_std)
    return {
        **hashes,
        "encoder": encoder.hexdigest(),
        "latents": repr(normalised),
        "chunk": repr(model.chunk),
    }


def claim(root: Path, folder: str | Path, model: ModelConfig) -> None:
    """Makes `root` a folder of stories encoded by the weights in `folder`, by its manifest.json.

    Raises:
        UserError: `root` holds stories encoded by other weights.
    """
    facts, note = manifest(folder, model), root / "manifest.json"
    if note.exists() and read_json(note) != facts:
        raise UserError(
            f"{root} holds stories encoded by other weights than {folder}; use another folder"
        )
    root.mkdir(parents=True, exist_ok=True)
    write_atomic(note, json.dumps(facts, indent=1).encode())


def story_file(root: str | Path, split: str, number: int) -> Path:
    return Path(root) / split / f"story_{number:05d}.npz"

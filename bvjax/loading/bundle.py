"""Everything trained that generation needs: one weights folder, checked, its parts loaded late.

The text encoder of the full-size models is four times as large as their small DiT.  It is loaded
when captions are new, and gone before the DiT is loaded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import bvjax
from bvjax import tokenizer as text_tokens
from bvjax import weights
from bvjax.config import ModelConfig, TextConfig
from bvjax.errors import UserError
from bvjax.files import read_text
from bvjax.generate.checks import check_model
from bvjax.loading.cache_folder import cache_folder, file_sha256
from bvjax.loading.loras import Given, Loras, MergedParams, open_loras
from bvjax.loading.text_cache import TextCache
from bvjax.placement import choose_layout, sharding_rule
from bvjax.presets import get_preset
from bvjax.sharding import ONE_DEVICE, Layout
from bvjax.tensor_files import TensorFile
from bvjax.tokenizer import Tokenizer
from bvjax.tokenizer_files import find_tokenizer

ASSETS = pathlib.Path(bvjax.__file__).parent / "assets"
VOCABULARY = "vocabulary.txt"


class LazyParams(Mapping[str, Any]):
    """The parts of a weights folder, each read when it is first asked for and kept.

    Parameters are float32, except that a part that computes in another dtype keeps the one it is
    stored in.  With several devices each leaf goes straight to its shards.
    """

    def __init__(self, folder: pathlib.Path, model: ModelConfig, layout: Layout):
        self._folder, self._model, self._layout, self._loaded = folder, model, layout, {}

    def __getitem__(self, part: str) -> Any:
        if part not in weights.PARTS:
            raise KeyError(part)
        if part not in self._loaded:
            compute = getattr(self._model, part).dtype
            dtype = "float32" if compute == "float32" else None
            self._loaded |= weights.load_weights(
                self._folder, [part], dtype=dtype, sharding=sharding_rule(self._layout, part)
            )[1]
        return self._loaded[part]

    def __iter__(self) -> Iterator[str]:
        return iter(weights.PARTS)

    def __len__(self) -> int:
        return len(weights.PARTS)


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A model with its parameters and its tokenizer."""

    folder: pathlib.Path
    model: ModelConfig
    params: Mapping[str, Any]  # dit, vae, text
    tokenizer: Tokenizer
    known_words: frozenset[str] | None  # of the training captions; None when not recorded
    sha256: str  # of the files
    text_sha256: str  # of those that decide the text states
    stage: str | None = None  # what its training made the DiT; None when not recorded
    layout: Layout = ONE_DEVICE  # the devices that generate with it
    sampler: str | None = None  # the kind that the DiT was trained with, where that was recorded
    loras: Loras = Loras()
    merged: MergedParams | None = None  # the DiT's parameters with them

    def dit(self, strengths: Sequence[float] = ()) -> Any:
        """The DiT's parameters with the LoRAs at strengths, one for each."""
        return self.params["dit"] if self.merged is None else self.merged.at(strengths)

    def with_loras(self, loras: Loras) -> Bundle:
        """The same parameters with these LoRAs in place of its own."""
        merged = MergedParams(lambda: self.params["dit"], loras) if loras else None
        return dataclasses.replace(self, loras=loras, merged=merged)

    def load_text(self, config: TextConfig) -> Any:
        """The text encoder's parameters in the dtype of `config`, for the caller to free.

        Sharded over the devices when there are several.
        """
        return weights.load_weights(
            self.folder, ["text"], dtype=config.dtype, sharding=sharding_rule(self.layout, "text")
        )[1]["text"]

    def text_cache(self, config: TextConfig) -> TextCache:
        """Text states made before by this encoder with this configuration."""
        return TextCache(cache_folder(), self.text_sha256, config)

    def unknown_words(self, captions: Sequence[str]) -> list[str]:
        """Words that the model never saw, sorted; none when its vocabulary is not recorded."""
        if self.known_words is None:
            return []
        return text_tokens.unknown_words(captions, set(self.known_words))


def find_weights(preset: str | None, folder: str | pathlib.Path | None) -> pathlib.Path:
    """The weights folder: the one given, or the one that comes with the preset (default mini).

    Raises `UserError` when there is none or it belongs to another preset.
    """
    if preset is not None:
        get_preset(preset)
    if folder is None:
        preset = preset or "mini"
        folder = ASSETS / preset
        if not (folder / "config.json").is_file():
            raise UserError(
                f"no weights for preset {preset!r} come with this installation; give a weights "
                "folder with `weights`"
            )
    path = pathlib.Path(folder)
    if not path.is_dir():
        raise UserError(f"there is no weights folder {path}")
    name = load_model(path).name
    if preset not in (None, name):
        raise UserError(f"{path} holds weights of preset {name!r}, not of {preset!r}")
    return path


def load_model(folder: pathlib.Path) -> ModelConfig:
    """The model of a weights folder; raises `UserError` for one that cannot generate."""
    model = weights.load_config(folder)
    try:
        check_model(model)
    except UserError as error:
        raise UserError(f"{folder / 'config.json'} is damaged: {error}") from None
    return model


def load_bundle(
    folder: str | pathlib.Path, layout: Layout | None = None, lora: Given | None = None
) -> Bundle:
    """Checks all parts; raises `UserError` for anything missing, damaged or not fitting.

    `layout` says which devices generate; None takes what `choose_layout` finds for the weights.
    Of the tensors only names, shapes and dtypes are read, and the bytes, if they are not known yet,
    for their hash and to see that all values are finite. `lora` are files that `open_loras` takes.
    """
    folder = pathlib.Path(folder)
    file = find_tokenizer(folder)
    tokenizer, model = Tokenizer(file), load_model(folder)
    for part in weights.PARTS:
        weights.check_tensors(folder / f"{part}.safetensors", weights.shapes(model, part))
    if tokenizer.vocab_size > model.text.vocab_size:
        raise UserError(
            f"{file} has {tokenizer.vocab_size} pieces but the text encoder "
            f"has {model.text.vocab_size}: they do not belong together"
        )
    words = folder / VOCABULARY
    known_words = frozenset(read_text(words, "the word list").split()) if words.exists() else None
    parts = [folder / f"{part}.safetensors" for part in weights.PARTS]
    made = weights.load_made(folder, "dit")
    layout = choose_layout(model) if layout is None else layout
    params = LazyParams(folder, model, layout)
    bundle = Bundle(
        folder,
        model,
        params,
        tokenizer,
        known_words,
        hash_files([*parts, file]),
        hash_files([folder / "text.safetensors", file]),
        made.get("stage"),
        layout,
        made.get("sampler"),
    )
    return bundle.with_loras(open_loras(lora, model))


def hash_files(paths: Sequence[pathlib.Path]) -> str:
    """SHA-256 over the hashes of files, which are kept between runs (`cache_folder`).

    Raises `UserError` for weights that are not finite.
    """
    folder = cache_folder()
    digest = hashlib.sha256()
    for path in paths:
        check = _check_values if path.suffix == ".safetensors" else None
        digest.update(bytes.fromhex(file_sha256(path, folder, check)))
    return digest.hexdigest()


def _check_values(path: pathlib.Path) -> None:
    weights.check_values(TensorFile(path))

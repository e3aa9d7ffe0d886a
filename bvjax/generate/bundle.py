"""Everything trained that generation needs, loaded from one weights folder and checked."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import bvjax
from bvjax import tokenizer as text_tokens
from bvjax import weights
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.presets import get_preset
from bvjax.tokenizer import Tokenizer

ASSETS = pathlib.Path(bvjax.__file__).parent / "assets"
VOCABULARY = "vocabulary.txt"


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A model with its parameters and its tokenizer."""

    folder: pathlib.Path
    model: ModelConfig
    params: dict[str, Any]  # dit, vae, text
    tokenizer: Tokenizer
    known_words: frozenset[str] | None  # of the training captions; None when not recorded
    sha256: str  # of the files
    stage: str | None = None  # what its training made the DiT; None when not recorded

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
                "folder with --weights"
            )
    path = pathlib.Path(folder)
    if not path.is_dir():
        raise UserError(f"there is no weights folder {path}")
    name = weights.load_config(path).name
    if preset not in (None, name):
        raise UserError(f"{path} holds weights of preset {name!r}, not of {preset!r}")
    return path


def load_bundle(folder: str | pathlib.Path) -> Bundle:
    """Loads all parts; raises `UserError` for anything missing, damaged or not fitting."""
    folder = pathlib.Path(folder)
    tokenizer = Tokenizer(folder / weights.TOKENIZER)
    model, params = weights.load_weights(folder)
    if tokenizer.vocab_size > model.text.vocab_size:
        raise UserError(
            f"{folder / weights.TOKENIZER} has {tokenizer.vocab_size} pieces but the text encoder "
            f"has {model.text.vocab_size}: they do not belong together"
        )
    words = folder / VOCABULARY
    known = frozenset(words.read_text(encoding="utf-8").split()) if words.exists() else None
    stage = weights.load_made(folder, "dit").get("stage")
    return Bundle(folder, model, params, tokenizer, known, hash_weights(folder), stage)


def hash_weights(folder: pathlib.Path) -> str:
    """SHA-256 over the tensors and the tokenizer of a weights folder."""
    digest = hashlib.sha256()
    for name in (*(f"{part}.safetensors" for part in weights.PARTS), weights.TOKENIZER):
        with open(folder / name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()

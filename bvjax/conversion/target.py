"""The folder that a conversion writes or adds to: all of its files but the tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import bvjax.weights as folders
from bvjax.config import ModelConfig
from bvjax.conversion import formats, manifest, pipeline
from bvjax.conversion.sources import Source
from bvjax.errors import UserError
from bvjax.files import json_bytes
from bvjax.overrides import to_dict
from bvjax.tokenizer_files import find_tokenizer, read_vocabulary


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A tokenizer that goes with the parts."""

    suffix: str  # model | json
    content: bytes


class Target:
    """A folder in one of `formats.TARGETS`, which may hold other parts already."""

    def __init__(self, folder: Path, to: str, model: ModelConfig, parts: Sequence[str]):
        """Reads what is there; raises `UserError` where that cannot be added to."""
        self._folder, self._to, self._model, self._parts = folder, to, model, parts
        self._existing_entries: dict[str, manifest.ManifestEntry] = {}
        if to == "bvjax":
            folders.config_with(folder, model, dict.fromkeys(parts, {}))
        else:
            existing_entries = manifest.read(folder)
            self._existing_entries = {
                part: existing_entries[part] for part in existing_entries if part not in parts
            }

    def files(self, vocabulary: Vocabulary | None) -> dict[str, bytes]:
        """{path in the folder: content} of what readers expect beside the tensors.

        Raises:
            UserError: the target's library has no class for a part; another tokenizer is there.
        """
        files = {} if vocabulary is None else self._tokenizer(vocabulary)
        if self._to == "bvjax":
            return files
        json_files = {}
        for part in self._parts:
            config_file = formats.config_file(self._model, part, self._to)
            if config_file is not None:
                name, content = config_file
                json_files[name] = content
                class_file_path = formats.class_file(content)
                if class_file_path is not None:
                    files[str(Path(name).with_name(class_file_path.name))] = (
                        class_file_path.read_bytes()
                    )
        if self._to == "diffusers" and {*self._parts, *self._existing_entries} == set(
            folders.PARTS
        ):
            folder = self._folder / formats.TOKENIZER_FOLDERS[self._to]
            json_files |= pipeline.files(self._combined_model(), bool(files) or folder.is_dir())
        return files | {name: json_bytes(content) for name, content in json_files.items()}

    def manifest(self, entries: Mapping[str, dict[str, Any]]) -> dict[str, bytes]:
        """{name: content} of the file that says what made the parts, those from before included."""
        if self._to == "bvjax":
            content = folders.config_with(self._folder, self._model, entries)
            return {"config.json": json_bytes(content)}
        parts = {part: entry.metadata for part, entry in self._existing_entries.items()}
        model = to_dict(self._model)
        parts |= {part: {**metadata, "model": model} for part, metadata in entries.items()}
        return {manifest.NAME: json_bytes({"parts": parts})}

    def _tokenizer(self, vocabulary: Vocabulary) -> dict[str, bytes]:
        folder = formats.TOKENIZER_FOLDERS.get(self._to, "")
        stem = "spiece" if vocabulary.suffix == "model" and folder else "tokenizer"
        name = str(Path(folder) / f"{stem}.{vocabulary.suffix}")
        try:
            existing = find_tokenizer(self._folder)
        except UserError:
            existing = self._folder / name
        if existing != self._folder / name:
            raise UserError(
                f"{existing} is there already, but {name} comes with these weights; remove the one that "
                "does not belong to them"
            )
        return {name: vocabulary.content}

    def _combined_model(self) -> ModelConfig:
        """The model of all parts, those from before included; the DiT's word counts most."""
        models = {part: entry.model for part, entry in self._existing_entries.items()}
        models |= dict.fromkeys(self._parts, self._model)
        part_configs = {part: getattr(model, part) for part, model in models.items()}
        return dataclasses.replace(models["dit"], **part_configs)


def tokenizer_of(sources: Sequence[Source], src: Path, model: ModelConfig) -> Vocabulary | None:
    """The tokenizer inside the file of a text encoder, or the one that lies beside the sources.

    Raises:
        UserError: there is a text encoder, and the tokenizer is none that fits it.
    """
    text = next((source for source in sources if source.part == "text"), None)
    if text is not None and text.tokenizer is not None:
        file, content = text.path, text.tokenizer
    else:
        try:
            file = find_tokenizer(src if src.is_dir() else src.parent)
        except UserError:  # it may come with another part
            return None
        content = file.read_bytes()
    try:
        size = read_vocabulary(file, content).size
    except UserError:
        if text is None:  # that of another model, or of none, beside parts that need none
            return None
        raise
    if text is not None and size > model.text.vocab_size:
        raise UserError(
            f"{file} has {size} pieces but the text encoder has {model.text.vocab_size}: they do not "
            "belong together"
        )
    return Vocabulary("json" if content.lstrip()[:1] == b"{" else "model", content)

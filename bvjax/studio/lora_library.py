"""The LoRA files of a folder that visitors may switch on, and the models that runs have with them."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from bvjax.errors import UserError
from bvjax.loading.bundle import Bundle
from bvjax.loading.loras import Loras, open_loras
from bvjax.plain_text import shown
from bvjax.runs.run_settings import Settings

SUFFIX = ".safetensors"
MOST = 64  # files of a folder


class LoraLibrary:
    """LoRAs by name; without a folder there are those that the model was opened with."""

    def __init__(self, bundle: Bundle, folder: pathlib.Path | None = None):
        """Raises `UserError` for a folder without a LoRA that fits the model."""
        self._bundle = bundle
        self._loras = {} if folder is None else _read(folder, bundle)
        self._by_hash = {loras.sha256[0]: loras for loras in self._loras.values()}
        own = bundle.loras
        for file, sha256 in zip(own.files, own.sha256, strict=True):
            self._by_hash.setdefault(sha256, Loras((file,), (sha256,)))
        self._last = bundle  # keeps its weights: runs that take turns seldom have other LoRAs

    def described(self) -> list[dict[str, str]]:
        """The LoRAs that the page offers."""
        return [{"name": name} for name in self._loras]

    def has(self, settings: Settings) -> bool:
        """Whether all LoRAs of a run are here."""
        return all(sha256 in self._by_hash for sha256 in settings.lora_sha256)

    def bundle_of(self, settings: Settings, names: Sequence[str] = ()) -> Bundle:
        """The model with the LoRAs of a run, and behind them those of `names` that it lacks.

        Raises `UserError` for a LoRA that is not here.
        """
        for file, sha256 in zip(settings.lora_files, settings.lora_sha256, strict=True):
            if sha256 not in self._by_hash:
                raise UserError(
                    f"the run was begun with the LoRA {pathlib.PurePath(file).name}, which is not in the folder of "
                    "`loras`"
                )
        hashes = dict.fromkeys((*settings.lora_sha256, *(self._hash(name) for name in names)))
        if tuple(hashes) != self._last.loras.sha256:
            found = [self._by_hash[sha256] for sha256 in hashes]
            loras = Loras(tuple(one.files[0] for one in found), tuple(hashes))
            self._last = self._bundle.with_loras(loras)
        return self._last

    def bundle_at(self, asked: Mapping[str, float]) -> Bundle:
        """The model with LoRAs at strengths, for a run that begins with them; those at 0 are not among them."""
        hashes = {self._hash(name): strength for name, strength in asked.items()}
        chosen = {sha256: strength for sha256, strength in hashes.items() if strength}
        files = [self._by_hash[sha256].files[0] for sha256 in chosen]
        at = [
            dataclasses.replace(file, strength=strength)
            for file, strength in zip(files, chosen.values(), strict=True)
        ]
        return self._bundle.with_loras(Loras(tuple(at), tuple(chosen)))

    def strengths(
        self, settings: Settings, chunk_id: int, asked: Mapping[str, float]
    ) -> tuple[float, ...]:
        """Strengths of the LoRAs of `bundle_of(settings, asked)`: those asked for, and others as they are at a chunk."""
        bundle = self.bundle_of(settings, list(asked))
        old = dict(zip(settings.lora_sha256, settings.strengths_of(chunk_id), strict=False))
        new = {self._hash(name): strength for name, strength in asked.items()}
        return tuple(new.get(sha256, old.get(sha256, 0.0)) for sha256 in bundle.loras.sha256)

    def told(self, settings: Settings) -> list[dict[str, Any]]:
        """The LoRAs of a run by name, with [chunk id, strength from there on]."""
        names = {loras.sha256[0]: name for name, loras in self._loras.items()}
        return [
            {
                "name": names.get(sha256, pathlib.PurePath(file).stem),
                "strengths": [[first, found[i]] for first, found in settings.lora_strengths],
            }
            for i, (file, sha256) in enumerate(
                zip(settings.lora_files, settings.lora_sha256, strict=True)
            )
        ]

    def _hash(self, name: str) -> str:
        if name not in self._loras:
            raise UserError(
                f"there is no LoRA {name[:80]!r}; there are {', '.join(map(shown, self._loras)) or 'none'}"
            )
        return self._loras[name].sha256[0]


def _read(folder: pathlib.Path, bundle: Bundle) -> dict[str, Loras]:
    """The files of a folder that are LoRAs of this model; a warning for each that is none."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}, which `loras` names")
    files = sorted(path for path in folder.iterdir() if path.suffix == SUFFIX and path.is_file())
    if len(files) > MOST:
        raise UserError(f"{folder} has {len(files)} files of LoRAs; it can have {MOST}")
    found: dict[str, Loras] = {}
    for path in files:
        try:
            loras = open_loras({path: 1.0}, bundle.model)
        except UserError as error:
            logging.warning("left out: %s", error)
            continue
        if any(loras.sha256 == other.sha256 for other in found.values()):
            logging.warning("left out: %s is there under another name", path)
            continue
        found[path.stem] = loras
    if not found:
        raise UserError(f"{folder} has no LoRA (*{SUFFIX}) that fits {bundle.model.name}")
    return found

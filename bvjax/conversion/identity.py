"""Which model the components of a checkpoint are: what is recorded of them, else what their sizes say."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import bvjax.weights as folders
from bvjax.config import ModelConfig
from bvjax.conversion import architecture, manifest, pipeline
from bvjax.conversion.sources import Source
from bvjax.errors import UserError
from bvjax.overrides import apply_overrides
from bvjax.presets import get_preset

CUSTOM = "custom"  # the name of a model that no preset is


def identify(
    sources: Sequence[Source], preset: str | None = None, overrides: Sequence[str] = ()
) -> ModelConfig:
    """The configuration of the model that `sources` are; raises `UserError`."""
    recorded = {source.part: _recorded(source) for source in sources}
    told: dict[str, Any] = {}
    text_dim = None
    for source in sources:
        found = recorded[source.part]
        if found is not None:
            told[source.part] = getattr(found, source.part)
        elif source.part == "dit":
            told["dit"], text_dim = architecture.dit_config(source)
        else:
            maker = {"vae": architecture.vae_config, "text": architecture.text_config}
            told[source.part] = maker[source.part](source)
    base = _base(sources, recorded, told, preset)
    for part, config in told.items():
        differs = architecture.difference(getattr(base, part), config)
        if differs and preset:
            path = next(source.path for source in sources if source.part == part)
            known = recorded[part]
            own = f" (it is of {known.name})" if known else ""
            raise UserError(f"{path} is not the {part} of preset {preset}: {differs}{own}")
        ours = getattr(base, part)
        run_time = [name for name in ("dtype", "remat", "max_length") if hasattr(ours, name)]
        kept = {name: getattr(ours, name) for name in run_time}
        base = dataclasses.replace(base, **{part: dataclasses.replace(config, **kept)})
    if text_dim is not None and "text" not in told:
        base = dataclasses.replace(base, text=dataclasses.replace(base.text, dim=text_dim))
    if text_dim is not None and base.text.dim != text_dim:
        raise UserError(
            f"the DiT takes text states of width {text_dim}, the text encoder gives {base.text.dim}"
        )
    return apply_overrides(base, list(overrides))


def made(source: Source) -> dict[str, Any]:
    """Returns the provenance of a part, where bvjax wrote it down."""
    if source.format == "bvjax":
        about = folders.load_made(source.path.parent, source.part)
        return manifest.check_about(source.path.with_name("config.json"), source.part, about)
    entry = manifest.beside(source.path)[1].get(source.part)
    return entry.about if entry else {}


def told_stage(source: Source) -> str:
    """The stage of a part: what is recorded, or what its form tells."""
    stage = made(source).get("stage")
    return stage or ("few-step" if architecture.is_generator(source.branch) else "pretrained")


def _base(
    sources: Sequence[Source],
    recorded: Mapping[str, ModelConfig | None],
    told: Mapping[str, Any],
    preset: str | None,
) -> ModelConfig:
    """The model whose parts are replaced by those at hand."""
    dit = recorded.get("dit")
    if preset and dit and dit.name not in (preset, CUSTOM):
        (source,) = (source for source in sources if source.part == "dit")
        raise UserError(
            f"{source.path} is of the model {dit.name}, as {_record(source)} says, not of preset "
            f"{preset}; leave out `preset`"
        )
    # the DiT's word counts most
    base = dit or next((found for found in recorded.values() if found), None)
    if base is not None and preset in (None, base.name):
        return base
    branch = next((source.branch for source in sources if source.part == "dit"), "")
    name = preset or (architecture.preset_of(told["dit"], branch) if "dit" in told else None)
    base = get_preset(name) if name else dataclasses.replace(get_preset("wan-1.3b"), name=CUSTOM)
    return dataclasses.replace(base, sampler=pipeline.read_sampler(sources, base.sampler))


def _recorded(source: Source) -> ModelConfig | None:
    """Reads the model's description from a bvjax weights folder or the manifest of an export."""
    if source.format == "bvjax":
        return folders.load_config(source.path.parent)
    entry = manifest.beside(source.path)[1].get(source.part)
    return entry.model if entry else None


def _record(source: Source) -> str:
    """The file in which `_recorded` found it."""
    if source.format == "bvjax":
        return str(source.path.with_name("config.json"))
    return str(manifest.beside(source.path)[0])

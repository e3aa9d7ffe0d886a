"""The model of a checkpoint's components: from a recorded description, else from their sizes."""

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
    recorded_models = {source.part: _recorded_model(source) for source in sources}
    configs: dict[str, Any] = {}
    text_dim = None
    for source in sources:
        recorded_model = recorded_models[source.part]
        if recorded_model is not None:
            configs[source.part] = getattr(recorded_model, source.part)
        elif source.part == "dit":
            configs["dit"], text_dim = architecture.dit_config(source)
        else:
            readers = {"vae": architecture.vae_config, "text": architecture.text_config}
            configs[source.part] = readers[source.part](source)
    base = _base_model(sources, recorded_models, configs, preset)
    for part, config in configs.items():
        difference = architecture.difference(getattr(base, part), config)
        if difference and preset:
            path = next(source.path for source in sources if source.part == part)
            recorded_model = recorded_models[part]
            origin = f" (it is of {recorded_model.name})" if recorded_model else ""
            raise UserError(f"{path} is not the {part} of preset {preset}: {difference}{origin}")
        base_config = getattr(base, part)
        runtime_fields = [
            name for name in ("dtype", "remat", "max_length") if hasattr(base_config, name)
        ]
        runtime_values = {name: getattr(base_config, name) for name in runtime_fields}
        base = dataclasses.replace(base, **{part: dataclasses.replace(config, **runtime_values)})
    if text_dim is not None and "text" not in configs:
        base = dataclasses.replace(base, text=dataclasses.replace(base.text, dim=text_dim))
    if text_dim is not None and base.text.dim != text_dim:
        raise UserError(
            f"the DiT takes text states of width {text_dim}, the text encoder gives {base.text.dim}"
        )
    return apply_overrides(base, list(overrides))


def provenance(source: Source) -> dict[str, Any]:
    """Returns the provenance of a part, where bvjax wrote it down."""
    if source.format == "bvjax":
        metadata = folders.load_made(source.path.parent, source.part)
        return manifest.check_metadata(source.path.with_name("config.json"), source.part, metadata)
    entry = manifest.find(source.path)[1].get(source.part)
    return entry.metadata if entry else {}


def training_stage(source: Source) -> str:
    """Returns the training stage of a part: recorded, or guessed from its branch."""
    stage = provenance(source).get("stage")
    return stage or ("few-step" if architecture.is_generator(source.branch) else "pretrained")


def _base_model(
    sources: Sequence[Source],
    recorded_models: Mapping[str, ModelConfig | None],
    configs: Mapping[str, Any],
    preset: str | None,
) -> ModelConfig:
    """The model whose parts are replaced by those at hand."""
    dit = recorded_models.get("dit")
    if preset and dit and dit.name not in (preset, CUSTOM):
        (source,) = (source for source in sources if source.part == "dit")
        raise UserError(
            f"{source.path} is of the model {dit.name}, as {_record_path(source)} says, not of preset "
            f"{preset}; leave out `preset`"
        )
    # the DiT's word counts most
    base = dit or next((model for model in recorded_models.values() if model), None)
    if base is not None and preset in (None, base.name):
        return base
    branch = next((source.branch for source in sources if source.part == "dit"), "")
    name = preset or (architecture.preset_of(configs["dit"], branch) if "dit" in configs else None)
    base = get_preset(name) if name else dataclasses.replace(get_preset("wan-1.3b"), name=CUSTOM)
    return dataclasses.replace(base, sampler=pipeline.read_sampler(sources, base.sampler))


def _recorded_model(source: Source) -> ModelConfig | None:
    """Reads the model's description from a bvjax weights folder or the manifest of an export."""
    if source.format == "bvjax":
        return folders.load_config(source.path.parent)
    entry = manifest.find(source.path)[1].get(source.part)
    return entry.model if entry else None


def _record_path(source: Source) -> str:
    """Returns the path of the file that `_recorded_model` reads."""
    if source.format == "bvjax":
        return str(source.path.with_name("config.json"))
    return str(manifest.find(source.path)[0])

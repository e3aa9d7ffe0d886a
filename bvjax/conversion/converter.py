"""Conversion between formats: everything is checked first, then tensors stream one by one."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import bvjax.weights as folders
from bvjax.config import ModelConfig
from bvjax.conversion import architecture, formats, lora, manifest, staging
from bvjax.conversion.identity import identify, provenance, training_stage
from bvjax.conversion.sources import Source, open_sources
from bvjax.conversion.tables import TensorSpec
from bvjax.conversion.target import Target, tokenizer_of
from bvjax.errors import UserError
from bvjax.files import sha256_of, write_atomic
from bvjax.finite import is_finite
from bvjax.overrides import assignments
from bvjax.plain_text import listed, size_text
from bvjax.presets import get_preset
from bvjax.stages import STAGES
from bvjax.tensor_files import TensorInfo, TensorWriter

DTYPES = ("keep", "float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class ComponentPlan:
    """One component, ready to be written."""

    source: Source
    source_specs: list[TensorSpec]  # of the source's format, in the order of `target_specs`
    target_specs: list[TensorSpec]  # of the target's
    infos: dict[str, TensorInfo]  # of the file to be written
    name: str  # of that file, in the folder that is written
    stage: str


def convert(
    src: str | Path,
    dst: str | Path,
    to: str = "bvjax",
    *,
    dtype: str = "keep",
    preset: str | None = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    stage: str | None = None,
    branch: str | None = None,
    overwrite: bool = False,
    loras: Mapping[str | Path, float] | Sequence[tuple[str | Path, float]] = (),
    say: Callable[[str], object] = lambda text: None,
) -> ModelConfig:
    """Converts all components found at `src`; returns what the model is.

    Args:
        to: bvjax, diffusers, wan or skyreels.
        dtype: of what is written; `keep` changes no bit.
        preset: what the model is, if not what its sizes say; its sizes must fit.
        overrides: changes on top, {"dit.num_heads": 12} or ["dit.num_heads=12"].
        stage: the training stage of the weights; default: recorded in the source, or guessed from its branch.
        loras: files and strengths, merged into the DiT one after the other, see `lora`.
        say: called with a line for each component.

    Raises:
        UserError: with all that is wrong, before anything is written; or a value is not finite.
            `dst` is then as it was before.
    """
    for name, value, legal in (("to", to, formats.TARGETS), ("dtype", dtype, DTYPES)):
        if value not in legal:
            raise UserError(f"`{name}` is {value!r}; it can be {', '.join(legal)}")
    if stage is not None and stage not in STAGES:
        raise UserError(f"`stage` is {stage!r}; it can be {', '.join(STAGES)}")
    if preset is not None:
        get_preset(preset)
    for name, path_argument in (("src", src), ("dst", dst)):
        if not os.fspath(path_argument):
            raise UserError(f"`{name}` is empty; it must be the name of a file or a folder")
    src, dst = Path(src), Path(dst)
    sources = open_sources(src, branch)
    model = identify(sources, preset, assignments(overrides))
    plans = [_plan(source, model, to, dtype, stage) for source in sources]
    problems = [text for plan in plans for text in _problems(plan)]
    if problems:
        raise UserError("; ".join(problems))
    if loras and not any(plan.source.part == "dit" for plan in plans):
        raise UserError(f"{src} has no DiT that `loras` could change")
    lora_files = loras.items() if isinstance(loras, Mapping) else loras
    opened_loras = [lora.open_lora(Path(path), strength, model) for path, strength in lora_files]
    staging.check_writable(dst, [plan.name for plan in plans])
    for path in staging.remove_leftovers(dst):
        say(f"{path}, which a killed conversion left, is removed")
    target = Target(dst, to, model, [source.part for source in sources])
    files = target.files(tokenizer_of(sources, src, model))
    _check_space(plans, dst, files)
    if not overwrite:
        _check_free(plans, dst, files)
    with staging.open_staging_dir(dst) as folder:
        for plan in plans:
            source = plan.source
            branch_note = f", {source.branch}" if source.branch else ""
            output_path = dst / plan.name
            say(
                f"{source.path} ({source.part}, {source.format}{branch_note}) -> {output_path} ({plan.stage})"
            )
            _write(plan, folder, opened_loras if source.part == "dit" else ())
        files |= target.manifest(_entries(plans, opened_loras))
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / name, content)
    return model


def _plan(
    source: Source, model: ModelConfig, to: str, dtype: str, stage: str | None
) -> ComponentPlan:
    format_name, name = formats.FILES[to][source.part]
    source_specs = formats.specs(model, source.part, source.format)
    target_specs = formats.specs(model, source.part, format_name)
    target_infos = {}
    for source_spec, target_spec in zip(source_specs, target_specs, strict=True):
        source_info = source.tensors.infos.get(source_spec.external_name)
        tensor_dtype = source_info.dtype if dtype == "keep" and source_info else dtype
        target_infos[target_spec.external_name] = TensorInfo(
            target_spec.external_shape, tensor_dtype
        )
    return ComponentPlan(
        source, source_specs, target_specs, target_infos, name, stage or training_stage(source)
    )


def _problems(plan: ComponentPlan) -> list[str]:
    """Returns the problems of the source's tensors."""
    source, expected = (
        plan.source,
        {spec.external_name: spec.external_shape for spec in plan.source_specs},
    )
    problems = folders.mismatches(source.tensors.infos, expected)
    if not problems:
        return []
    return [f"{source.path} does not fit the {source.part}: {'; '.join(problems)}"]


def _check_space(plans: Sequence[ComponentPlan], dst: Path, files: Mapping[str, bytes]) -> None:
    """Raises `UserError` where `dst` cannot be made or its disk is too full."""
    names = [*(plan.name for plan in plans), *files, manifest.NAME]
    free = shutil.disk_usage(staging.check_writable(dst, names)).free
    needed = sum(info.nbytes for plan in plans for info in plan.infos.values())
    if needed > free:
        raise UserError(f"{size_text(needed)} are needed at {dst}; {size_text(free)} are free")


def _check_free(plans: Sequence[ComponentPlan], dst: Path, files: Mapping[str, bytes]) -> None:
    """Raises `UserError` where something in `dst` would be replaced by something else."""
    conflicts = [dst / plan.name for plan in plans if (dst / plan.name).exists()]
    conflicts += [
        dst / name
        for name, content in files.items()
        if (dst / name).exists() and (dst / name).read_bytes() != content
    ]
    if conflicts:
        raise UserError(
            f"{listed(map(str, conflicts))} exists; give another folder, or `overwrite`"
        )


def _write(plan: ComponentPlan, folder: Path, loras: Sequence[lora.Lora]) -> None:
    """Streams one component; memory holds a few copies of one tensor."""
    path = folder / plan.name
    path.parent.mkdir(parents=True, exist_ok=True)
    total = sum(info.nbytes for info in plan.infos.values())
    # transformers and diffusers refuse files that do not say they are PyTorch's
    metadata = {"format": "pt", "part": plan.source.part, "stage": plan.stage}
    with (
        TensorWriter(path, plan.infos, metadata) as writer,
        tqdm(total=total, unit="B", unit_scale=True, desc=path.name, disable=None) as bar,
    ):
        for source_spec, target_spec in zip(plan.source_specs, plan.target_specs, strict=True):
            array = target_spec.to_external(
                _values(plan, source_spec, plan.infos[target_spec.external_name].dtype, loras)
            )
            writer.write(target_spec.external_name, array)
            bar.update(array.nbytes)


def _values(
    plan: ComponentPlan, spec: TensorSpec, dtype: str, loras: Sequence[lora.Lora]
) -> np.ndarray:
    """One tensor as ours, in `dtype`; raises `UserError` where a value of it is not finite."""
    array = spec.to_internal(plan.source.tensors.read(spec.external_name))
    if not is_finite(array):
        raise UserError(
            f"{plan.source.path} has values that are not finite (NaN or infinite) in {spec.external_name}"
        )
    merged_array = lora.merge_tensor(loras, spec.name, array)
    if merged_array is array and array.dtype.name == dtype:
        return array
    with np.errstate(over="ignore"):
        cast = merged_array.astype(jnp.dtype(dtype))
    if not is_finite(cast):
        lora_note = "" if merged_array is array else f" with {listed(str(x.path) for x in loras)}"
        raise UserError(
            f"{spec.external_name} has values that are not finite in {dtype}{lora_note}"
        )
    return cast


def _entries(
    plans: Sequence[ComponentPlan], loras: Sequence[lora.Lora]
) -> dict[str, dict[str, Any]]:
    """Returns the provenance of each part; reads the sources once more for their hashes."""
    entries = {}
    for plan in plans:
        source = plan.source
        entries[source.part] = {
            "source": {file.name: sha256_of(file) for file in source.files},
            "layout": source.format,
            "branch": source.branch,
            "stage": plan.stage,
            "dtype": sorted({info.dtype for info in plan.infos.values()}),
            "tensors": len(plan.infos),
            "parameters": architecture.count_parameters(plan.infos),
        }
        if sampler := provenance(source).get("sampler"):
            entries[source.part]["sampler"] = sampler
        applied_loras = [
            *provenance(source).get("lora", []),
            *(
                {"file": x.path.name, "sha256": sha256_of(x.path), "strength": x.strength}
                for x in (loras if source.part == "dit" else ())
            ),
        ]
        if applied_loras:
            entries[source.part]["lora"] = applied_loras
    return entries

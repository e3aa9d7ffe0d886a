"""From one format to another: everything is checked first, then tensors stream one by one."""

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
from bvjax.conversion.identity import identify, made, told_stage
from bvjax.conversion.sources import Source, open_sources
from bvjax.conversion.tables import Spec
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
class Plan:
    """One component, ready to be written."""

    source: Source
    incoming: list[Spec]  # of the source's format, in the order of `outgoing`
    outgoing: list[Spec]  # of the target's
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
        stage: what its training made it; default: what the source says, or what its form tells.
        loras: files and strengths, merged into the DiT one after the other, see `lora`.
        say: is told what goes where.

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
    for name, place in (("src", src), ("dst", dst)):
        if not os.fspath(place):
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
    merged = loras.items() if isinstance(loras, Mapping) else loras
    opened = [lora.open_lora(Path(path), strength, model) for path, strength in merged]
    staging.check_place(dst, [plan.name for plan in plans])
    for path in staging.remove_leftovers(dst):
        say(f"{path}, which a killed conversion left, is removed")
    target = Target(dst, to, model, [source.part for source in sources])
    files = target.files(tokenizer_of(sources, src, model))
    _check_space(plans, dst, files)
    if not overwrite:
        _check_free(plans, dst, files)
    with staging.staged(dst) as folder:
        for plan in plans:
            source = plan.source
            used = f", {source.branch}" if source.branch else ""
            goal = dst / plan.name
            say(f"{source.path} ({source.part}, {source.format}{used}) -> {goal} ({plan.stage})")
            _write(plan, folder, opened if source.part == "dit" else ())
        files |= target.manifest(_entries(plans, opened))
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / name, content)
    return model


def _plan(source: Source, model: ModelConfig, to: str, dtype: str, stage: str | None) -> Plan:
    format_name, name = formats.FILES[to][source.part]
    incoming = formats.specs(model, source.part, source.format)
    outgoing = formats.specs(model, source.part, format_name)
    infos = {}
    for there, here in zip(incoming, outgoing, strict=True):
        found = source.tensors.infos.get(there.theirs)
        kind = found.dtype if dtype == "keep" and found else dtype
        infos[here.theirs] = TensorInfo(here.shape_there, kind)
    return Plan(source, incoming, outgoing, infos, name, stage or told_stage(source))


def _problems(plan: Plan) -> list[str]:
    """All that is wrong with the source's tensors."""
    source, wanted = plan.source, {spec.theirs: spec.shape_there for spec in plan.incoming}
    problems = folders.misfits(source.tensors.infos, wanted)
    if not problems:
        return []
    return [f"{source.path} does not fit the {source.part}: {'; '.join(problems)}"]


def _check_space(plans: Sequence[Plan], dst: Path, files: Mapping[str, bytes]) -> None:
    """Raises `UserError` where `dst` cannot be made or its disk is too full."""
    names = [*(plan.name for plan in plans), *files, manifest.NAME]
    free = shutil.disk_usage(staging.check_place(dst, names)).free
    needed = sum(info.nbytes for plan in plans for info in plan.infos.values())
    if needed > free:
        raise UserError(f"{size_text(needed)} are needed at {dst}; {size_text(free)} are free")


def _check_free(plans: Sequence[Plan], dst: Path, files: Mapping[str, bytes]) -> None:
    """Raises `UserError` where something in `dst` would be replaced by something else."""
    there = [dst / plan.name for plan in plans if (dst / plan.name).exists()]
    there += [
        dst / name
        for name, content in files.items()
        if (dst / name).exists() and (dst / name).read_bytes() != content
    ]
    if there:
        raise UserError(f"{listed(map(str, there))} exists; give another folder, or `overwrite`")


def _write(plan: Plan, folder: Path, loras: Sequence[lora.Lora]) -> None:
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
        for there, here in zip(plan.incoming, plan.outgoing, strict=True):
            array = here.to_theirs(_values(plan, there, plan.infos[here.theirs].dtype, loras))
            writer.write(here.theirs, array)
            bar.update(array.nbytes)


def _values(plan: Plan, spec: Spec, dtype: str, loras: Sequence[lora.Lora]) -> np.ndarray:
    """One tensor as ours, in `dtype`; raises `UserError` where a value of it is not finite."""
    array = spec.to_ours(plan.source.tensors.read(spec.theirs))
    if not is_finite(array):
        raise UserError(
            f"{plan.source.path} has values that are not finite (NaN or infinite) in {spec.theirs}"
        )
    changed = lora.merged(loras, spec.ours, array)
    if changed is array and array.dtype.name == dtype:
        return array
    with np.errstate(over="ignore"):
        cast = changed.astype(jnp.dtype(dtype))
    if not is_finite(cast):
        names = "" if changed is array else f" with {listed(str(x.path) for x in loras)}"
        raise UserError(f"{spec.theirs} has values that are not finite in {dtype}{names}")
    return cast


def _entries(plans: Sequence[Plan], loras: Sequence[lora.Lora]) -> dict[str, dict[str, Any]]:
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
            "parameters": architecture.sizes(plan.infos),
        }
        merged = [
            *made(source).get("lora", []),
            *(
                {"file": x.path.name, "sha256": sha256_of(x.path), "strength": x.strength}
                for x in (loras if source.part == "dit" else ())
            ),
        ]
        if merged:
            entries[source.part]["lora"] = merged
    return entries

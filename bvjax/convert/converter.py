"""From one layout to another: everything is checked first, then tensors stream one by one."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import bvjax.weights as folders
from bvjax.config import ModelConfig
from bvjax.convert import architecture, layouts, lora, pipeline
from bvjax.convert.sources import Source, open_sources
from bvjax.convert.tables import Spec
from bvjax.errors import UserError
from bvjax.files import read_json, sha256_of, write_atomic, write_json
from bvjax.overrides import apply_overrides, from_dict, to_dict
from bvjax.plain_text import size_text
from bvjax.presets import get_preset
from bvjax.stages import STAGES
from bvjax.tensor_files import TensorInfo, TensorWriter
from bvjax.tokenizer_files import find_tokenizer

DTYPES = ("keep", "float32", "bfloat16", "float16")
MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Plan:
    """One component, ready to be written."""

    source: Source
    incoming: list[Spec]  # of the source's layout, in the order of `outgoing`
    outgoing: list[Spec]  # of the target's
    infos: dict[str, TensorInfo]  # of the file to be written
    path: Path
    stage: str
    config: tuple[str, dict[str, Any]] | None  # the config.json beside it, where it has one


def convert(
    src: Path,
    dst: Path,
    to: str,
    *,
    dtype: str = "keep",
    preset: str | None = None,
    overrides: Sequence[str] = (),
    stage: str | None = None,
    branch: str | None = None,
    overwrite: bool = False,
    loras: Sequence[tuple[Path, float]] = (),
    say: Callable[[str], None] = lambda text: None,
) -> ModelConfig:
    """Converts all components found at `src`; returns what the model is.

    Args:
        to: bvjax, diffusers, wan or skyreels.
        dtype: of what is written; `keep` changes no bit.
        preset: what the model is, if not what its sizes say; its sizes must fit.
        overrides: "section.key=value" on top, for example dit.num_heads=12.
        stage: what its training made it; default: what the source says, or what its form tells.
        loras: files and strengths, merged into the DiT one after the other, see `convert.lora`.
        say: is told what goes where.

    Raises:
        UserError: with all that is wrong, before anything is written.
    """
    for name, value, legal in (("--to", to, layouts.TARGETS), ("--dtype", dtype, DTYPES)):
        if value not in legal:
            raise UserError(f"{name} is {value!r}; it can be {', '.join(legal)}")
    if stage is not None and stage not in STAGES:
        raise UserError(f"--stage is {stage!r}; it can be {', '.join(STAGES)}")
    if preset is not None:
        get_preset(preset)
    dst = Path(dst)
    sources = open_sources(Path(src), branch)
    model = identify(sources, preset, overrides)
    plans = [_plan(source, model, dst, to, dtype, stage) for source in sources]
    problems = [text for plan in plans for text in _problems(plan)]
    if problems:
        raise UserError("; ".join(problems))
    if loras and not any(plan.source.part == "dit" for plan in plans):
        raise UserError(f"{src} has no DiT that --lora could change")
    opened = [lora.open_lora(path, strength, model) for path, strength in loras]
    existing = [str(plan.path) for plan in plans if plan.path.exists()]
    if existing and not overwrite:
        raise UserError(f"{', '.join(existing)} exists; give another folder, or --overwrite")
    _check_space(plans, dst)
    for plan in plans:
        source = plan.source
        used = f", {source.branch}" if source.branch else ""
        say(f"{source.path} ({source.part}, {source.layout}{used}) -> {plan.path} ({plan.stage})")
        plan.path.parent.mkdir(parents=True, exist_ok=True)
        _write(plan, opened if source.part == "dit" else ())
    _finish(plans, model, dst, to, opened, _tokenizer(Path(src)))
    return model


def identify(
    sources: Sequence[Source], preset: str | None = None, overrides: Sequence[str] = ()
) -> ModelConfig:
    """The configuration of the model that `sources` are; raises `UserError`."""
    told: dict[str, Any] = {}
    text_dim = None
    recorded = {source.part: _recorded(source) for source in sources}
    for source in sources:
        if recorded[source.part] is not None:
            told[source.part] = getattr(recorded[source.part], source.part)
        elif source.part == "dit":
            told["dit"], text_dim = architecture.dit_config(source)
        else:
            maker = {"vae": architecture.vae_config, "text": architecture.text_config}
            told[source.part] = maker[source.part](source)
    branch = next((source.branch for source in sources if source.part == "dit"), "")
    # the DiT's word counts most
    base = recorded.get("dit") or next((found for found in recorded.values() if found), None)
    if base is None:
        name = preset or (architecture.preset_of(told["dit"], branch) if "dit" in told else None)
        base = (
            get_preset(name) if name else dataclasses.replace(get_preset("wan-1.3b"), name="custom")
        )
        base = dataclasses.replace(base, sampler=pipeline.read_sampler(sources, base.sampler))
    for part, config in told.items():
        differs = architecture.difference(getattr(base, part), config)
        if differs and preset:
            path = next(source.path for source in sources if source.part == part)
            raise UserError(f"{path} is not the {part} of preset {preset}: {differs}")
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


def _recorded(source: Source) -> ModelConfig | None:
    """What a bvjax weights folder, or the manifest of an export, says of the model."""
    if source.layout == "bvjax":
        return folders.load_config(source.path.parent)
    entry = _manifest(source).get(source.part)
    return from_dict(ModelConfig, entry["model"]) if entry else None


def _manifest(source: Source) -> dict[str, Any]:
    for folder in (source.path.parent, source.path.parent.parent):
        if (folder / MANIFEST).is_file():
            try:
                return dict(read_json(folder / MANIFEST)["parts"])
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{folder / MANIFEST} is damaged") from None
    return {}


def _plan(source: Source, model: ModelConfig, dst: Path, to: str, dtype: str, stage) -> Plan:
    layout, name = layouts.FILES[to][source.part]
    incoming = layouts.specs(model, source.part, source.layout)
    outgoing = layouts.specs(model, source.part, layout)
    infos = {}
    for there, here in zip(incoming, outgoing, strict=True):
        found = source.tensors.infos.get(there.theirs)
        kind = found.dtype if dtype == "keep" and found else dtype
        infos[here.theirs] = TensorInfo(here.shape_there, kind)
    if stage is None:
        stage = _told_stage(source)
    config = layouts.config_file(model, source.part, to)
    return Plan(source, incoming, outgoing, infos, dst / name, stage, config)


def _made(source: Source) -> dict[str, Any]:
    """What made a part, where bvjax wrote it down."""
    if source.layout == "bvjax":
        return folders.load_made(source.path.parent, source.part)
    return _manifest(source).get(source.part, {})


def _told_stage(source: Source) -> str:
    told = _made(source).get("stage")
    return told or ("few-step" if architecture.is_generator(source.branch) else "pretrained")


def _problems(plan: Plan) -> list[str]:
    """All that is wrong with the source's tensors."""
    source, wanted = plan.source, {spec.theirs: spec.shape_there for spec in plan.incoming}
    problems = folders.misfits(source.tensors.infos, wanted)
    if not problems:
        return []
    return [f"{source.path} does not fit the {source.part}: {'; '.join(problems)}"]


def _check_space(plans: list[Plan], dst: Path) -> None:
    """Raises `UserError` where `dst` cannot be made or its disk is too full."""
    needed = sum(info.nbytes for plan in plans for info in plan.infos.values())
    folder = dst.absolute()
    try:
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            raise UserError(f"{folder} is a file; DST is a folder to write")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {dst}: {error.strerror or error}") from None
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{size_text(needed)} are needed at {dst}; {size_text(free)} are free")


def _write(plan: Plan, loras: Sequence[lora.Lora]) -> None:
    """Streams one component; memory holds a few copies of one tensor."""
    total = sum(info.nbytes for info in plan.infos.values())
    # transformers and diffusers refuse files that do not say they are PyTorch's
    metadata = {"format": "pt", "part": plan.source.part, "stage": plan.stage}
    with (
        TensorWriter(plan.path, plan.infos, metadata) as writer,
        tqdm(total=total, unit="B", unit_scale=True, desc=plan.path.name, disable=None) as bar,
    ):
        for there, here in zip(plan.incoming, plan.outgoing, strict=True):
            array = there.to_ours(plan.source.tensors.read(there.theirs))
            kind = plan.infos[here.theirs].dtype
            changed = lora.merged(loras, there.ours, array)
            if changed is not array or array.dtype.name != kind:
                changed = _cast(changed, kind, there.theirs)
            array = here.to_theirs(changed)
            writer.write(here.theirs, array)
            bar.update(array.nbytes)


def _cast(array: np.ndarray, dtype: str, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = array.astype(jnp.dtype(dtype))
    if not np.isfinite(cast.astype(np.float32)).all():
        raise UserError(f"{name} has values that are not finite in {dtype}; nothing is kept of it")
    return cast


def _finish(plans, model: ModelConfig, dst: Path, to: str, loras, tokenizer) -> None:
    """The configuration files and the manifest, after the tensors that they speak of."""
    entries = {}
    for plan in plans:
        source = plan.source
        entries[source.part] = {
            "source": {file.name: sha256_of(file) for file in source.files},
            "layout": source.layout,
            "branch": source.branch,
            "stage": plan.stage,
            "dtype": sorted({info.dtype for info in plan.infos.values()}),
            "tensors": len(plan.infos),
            "parameters": architecture.sizes(plan.infos),
        }
        merged = [
            *_made(source).get("lora", []),
            *(
                {"file": x.path.name, "sha256": sha256_of(x.path), "strength": x.strength}
                for x in (loras if source.part == "dit" else ())
            ),
        ]
        if merged:
            entries[source.part]["lora"] = merged
    if to == "bvjax":
        folders.save_config(dst, model, entries, tokenizer=tokenizer)
        return
    for plan in plans:
        if plan.config is not None:
            name, content = plan.config
            write_json(dst / name, content)
            code = layouts.class_file(content)
            if code is not None:
                write_atomic((dst / name).parent / code.name, code.read_bytes())
    if to == "diffusers" and len(plans) == len(folders.PARTS):
        for name, content in pipeline.files(model, tokenizer).items():
            (dst / name).parent.mkdir(exist_ok=True)
            write_json(dst / name, content)
    if tokenizer is not None:
        folder = dst / layouts.TOKENIZER_FOLDERS[to]
        folder.mkdir(parents=True, exist_ok=True)
        name = "spiece.model" if tokenizer.suffix == ".model" else tokenizer.name
        write_atomic(folder / name, tokenizer.read_bytes())
    for entry in entries.values():
        entry["model"] = to_dict(model)
    write_json(dst / MANIFEST, {"parts": entries})


def _tokenizer(src: Path) -> Path | None:
    """The tokenizer that comes with a checkpoint."""
    try:
        return find_tokenizer(src if src.is_dir() else src.parent)
    except UserError:  # it may come with another part
        return None

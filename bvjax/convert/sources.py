"""Published checkpoints as they lie on a disk: files and folders to named tensors, read one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bvjax.convert import text_names, torch_files
from bvjax.errors import UserError
from bvjax.files import read_json_object
from bvjax.tensor_files import TensorFile, TensorInfo

COMPONENTS = ("transformer", "vae", "text_encoder")  # subfolders of a diffusers pipeline
# (part, layout, a tensor that only this layout has)
SIGNATURES = (
    ("dit", "bvjax", "patch_embedding/kernel"),
    ("dit", "wan", "blocks.0.self_attn.q.weight"),
    ("dit", "diffusers", "blocks.0.attn1.to_q.weight"),
    ("vae", "bvjax", "encoder/conv1/kernel"),
    ("vae", "wan", "encoder.conv1.weight"),
    ("vae", "diffusers", "encoder.conv_in.weight"),
    ("text", "bvjax", "token_embedding/embedding"),
    ("text", "wan", "token_embedding.weight"),
    ("text", "transformers", "shared.weight"),
    ("text", "transformers", "encoder.embed_tokens.weight"),
)
# What training wrappers put before every name.
PREFIXES = (
    "",
    "model.",
    "module.",
    "_fsdp_wrapped_module.",
    "model._fsdp_wrapped_module.",
    "diffusion_model.",
    "model.diffusion_model.",
)
TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")


class Tensors(NamedTuple):
    """Names and sizes of tensors, and a function that reads one."""

    infos: Mapping[str, TensorInfo]
    read: Callable[[str], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Source:
    """One component of a model in one layout."""

    path: Path
    part: str  # dit | vae | text
    layout: str  # bvjax | wan | diffusers | transformers
    files: tuple[Path, ...]
    tensors: Tensors  # under the names of the layout, prefixes taken off
    config: dict[str, Any]  # of the config.json beside it, {} if there is none
    branch: str = ""  # of a training checkpoint: generator or generator_ema


def open_sources(path: Path, branch: str | None = None) -> list[Source]:
    """The components at `path`: a file, a component's folder, or a whole model's.

    Args:
        branch: which weights of a training checkpoint (.pt) that holds several.

    Raises:
        UserError: nothing there, damaged, of an unknown layout, or two of one component.
    """
    path = Path(path)
    if path.is_file():
        return [_open_group([path], branch, path)]
    if not path.is_dir():
        raise UserError(f"there is no checkpoint {path}")
    folders = [path, *(path / name for name in COMPONENTS if (path / name).is_dir())]
    found, strange = [], []
    for folder in folders:
        for group in _groups(folder):
            try:
                found.append(_open_group(group, branch, folder))
            except UnknownLayout:
                strange.append(group[0].name)
    if not found:
        seen = f"; of unknown layout: {', '.join(strange)}" if strange else ""
        raise UserError(
            f"{path} holds no checkpoint that bvjax knows (safetensors, .pt or .pth of a Wan2.1 DiT,"
            f" VAE or umT5 encoder){seen}"
        )
    parts = [source.part for source in found]
    for part in set(parts):
        if parts.count(part) > 1:
            names = ", ".join(str(s.files[0].name) for s in found if s.part == part)
            raise UserError(f"{path} holds more than one {part} ({names}); name the file")
    return found


class UnknownLayout(UserError):
    """A readable file whose tensors are none of the layouts."""


def _groups(folder: Path) -> list[list[Path]]:
    """The files of each checkpoint in a folder: single ones, and shards after their index."""
    groups, sharded = [], set()
    for index in sorted(folder.glob("*.safetensors.index.json")):
        names = sorted(set(read_json_object(index).get("weight_map", {}).values()))
        if any(Path(name).name != name for name in names):
            raise UserError(f"{index} names files outside its folder")
        groups.append([index, *(folder / name for name in names)])
        sharded |= set(names)
    for file in sorted(folder.iterdir()):
        if file.name in sharded or file.name.startswith("."):
            continue
        if file.suffix == ".safetensors" or file.suffix in TORCH_SUFFIXES:
            groups.append([file])
    return groups


def _open_group(group: list[Path], branch: str | None, folder: Path) -> Source:
    files = [file for file in group if not file.name.endswith(".index.json")]
    used = ""
    if group[0].name.endswith(".safetensors.index.json"):
        tensors = _sharded(group[0], files)
    elif files[0].suffix in TORCH_SUFFIXES:
        infos, read, used = torch_files.open_torch(files[0], branch)
        tensors = Tensors(infos, read)
    else:
        file = TensorFile(files[0])
        tensors = Tensors(file.infos, file.read)
    part, layout, prefix = identify(tensors.infos, group[0])
    cut = {name.removeprefix(prefix): name for name in tensors.infos}
    infos = {short: tensors.infos[name] for short, name in cut.items()}
    tied = text_names.TIED if layout == "transformers" else {}
    for extra, name in tied.items():
        if extra in infos and name in infos:
            infos.pop(extra)  # the same tensor once more
        elif extra in infos:
            infos[name], cut[name] = infos.pop(extra), cut[extra]
    read = tensors.read
    config = (folder if folder.is_dir() else folder.parent) / "config.json"
    # in the original layout the one config.json beside all three parts is the DiT's
    described = layout != "bvjax" and (layout != "wan" or part == "dit")
    return Source(
        path=group[0],
        part=part,
        layout=layout,
        files=tuple(group),
        tensors=Tensors(infos, lambda name: read(cut[name])),
        config=read_json_object(config) if described and config.is_file() else {},
        branch=used,
    )


def identify(infos: Mapping[str, TensorInfo], path: Path) -> tuple[str, str, str]:
    """(part, layout, prefix of all names); raises `UserError` for what bvjax cannot take."""
    for prefix in PREFIXES:
        for part, layout, name in SIGNATURES:
            if prefix + name in infos:
                if part == "text" and any(n.startswith(prefix + "decoder.") for n in infos):
                    raise UserError(f"{path} is a whole T5 model; give its encoder alone")
                strangers = [n for n in infos if not n.startswith(prefix)]
                if strangers:
                    raise UserError(
                        f"{path} has tensors without the prefix {prefix!r}: {strangers}"
                    )
                return part, layout, prefix
    shown = ", ".join(list(infos)[:3])
    raise UnknownLayout(
        f"{path} is no layout that bvjax knows; its tensors begin {shown or 'nowhere'}"
    )


def _sharded(index: Path, files: list[Path]) -> Tensors:
    """All shards as one; raises `UserError` when they are not what the index says."""
    where = read_json_object(index).get("weight_map", {})
    opened = {file.name: TensorFile(file) for file in files}
    infos = {name: info for file in opened.values() for name, info in file.infos.items()}
    astray = [n for n, f in where.items() if n not in opened[f].infos]
    astray += [n for n in infos if n not in where]
    if astray:
        raise UserError(f"{index} and its shards do not agree about {', '.join(sorted(astray))}")
    return Tensors(infos, lambda name: opened[where[name]].read(name))

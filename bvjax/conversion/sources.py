"""Published checkpoints on disk: files and folders to named tensors, read one by one."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bvjax.conversion import text_names, torch_files
from bvjax.conversion.quantised import dequantise
from bvjax.conversion.tensors import Tensors
from bvjax.conversion.wrappers import unwrap, unwrap_all
from bvjax.errors import UserError
from bvjax.file_kinds import OtherFormat
from bvjax.files import read_json_object
from bvjax.plain_text import listed
from bvjax.tensor_files import TensorFile, TensorInfo

COMPONENTS = ("transformer", "vae", "text_encoder")  # subfolders of a diffusers pipeline
# (part, format, a tensor that only this format has)
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
INDEX = ".safetensors.index.json"
TOKENIZER = "spiece_model"  # bytes that ComfyUI puts beside the tensors of an encoder
TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")


@dataclasses.dataclass(frozen=True)
class Source:
    """One component of a model in one format."""

    path: Path
    part: str  # dit | vae | text
    format: str  # bvjax | wan | diffusers | transformers
    files: tuple[Path, ...]
    tensors: Tensors  # under the names of the format, without wrappers, scales multiplied in
    config: dict[str, Any]  # of the config.json beside it, {} if there is none
    branch: str = ""  # of a training checkpoint: generator or generator_ema
    tokenizer: bytes | None = None  # a SentencePiece model inside the file


def open_sources(path: Path, branch: str | None = None) -> list[Source]:
    """The components at `path`: a file, a component's folder, or a whole model's.

    Args:
        branch: which weights of a training checkpoint (.pt) that holds several.

    Raises:
        UserError: nothing there, damaged, of an unknown format, or two of one component.
    """
    path = Path(path)
    if path.is_file():
        return [_open_group([path], branch, path)]
    if not path.is_dir():
        raise UserError(f"there is no checkpoint {path}")
    folders = [path, *(path / name for name in COMPONENTS if (path / name).is_dir())]
    sources: list[Source] = []
    unknown: list[str] = []
    other_formats: list[OtherFormat] = []
    for folder in folders:
        for group in _groups(folder):
            try:
                sources.append(_open_group(group, branch, folder))
            except UnknownFormat:
                unknown.append(group[0].name)
            except OtherFormat as error:
                other_formats.append(error)
    if other_formats and not sources:
        raise other_formats[0]
    if not sources:
        note = f"; of unknown format: {listed(unknown)}" if unknown else ""
        raise UserError(
            f"{path} holds no checkpoint that bvjax knows (safetensors, .pt or .pth of a Wan2.1 DiT,"
            f" VAE or umT5 encoder){note}"
        )
    parts = [source.part for source in sources]
    for part in set(parts):
        if parts.count(part) > 1:
            names = listed(s.files[0].name for s in sources if s.part == part)
            raise UserError(f"{path} holds more than one {part} ({names}); name the file")
    return sources


class UnknownFormat(UserError):
    """A readable file whose tensors are none of the formats."""


def _groups(folder: Path) -> list[list[Path]]:
    """The files of each checkpoint in a folder: single ones, and shards after their index."""
    groups, sharded = [], set()
    for index in sorted(folder.glob(f"*{INDEX}")):
        names = sorted(set(_weight_map(index).values()))
        groups.append([index, *(folder / name for name in names)])
        sharded |= set(names)
    for file in sorted(folder.iterdir()):
        if file.name in sharded or file.name.startswith("."):
            continue
        if file.suffix in (".safetensors", ".gguf", *TORCH_SUFFIXES) and file.is_file():
            groups.append([file])
    return groups


def _open_group(group: list[Path], branch: str | None, folder: Path) -> Source:
    path, branch_used = group[0], ""
    if path.name.endswith(INDEX):
        tensors = _sharded(path, group[1:])
    else:
        tensors, branch_used = open_tensors(path, branch, is_known)
    tensors = tensors.renamed(unwrap_all(tensors.infos, path))
    part, format_name = identify(tensors.infos, path)
    tokenizer = None
    if part == "text" and TOKENIZER in tensors.infos:
        tokenizer = np.asarray(tensors.read(TOKENIZER)).tobytes()
        tensors = tensors.renamed({n: n for n in tensors.infos if n != TOKENIZER})
    tensors = dequantise(tensors, path)
    if format_name == "transformers":
        names = {name: name for name in tensors.infos}
        for alias, name in text_names.TIED.items():
            if alias in names:  # the same tensor once more, or under this name alone
                names.setdefault(name, alias)
                names.pop(alias)
        tensors = tensors.renamed(names)
    config = (folder if folder.is_dir() else folder.parent) / "config.json"
    # in the original format the one config.json beside all three parts is the DiT's
    has_config = format_name != "bvjax" and (format_name != "wan" or part == "dit")
    return Source(
        path=path,
        part=part,
        format=format_name,
        files=tuple(group),
        tensors=tensors,
        config=read_json_object(config) if has_config and config.is_file() else {},
        branch=branch_used,
        tokenizer=tokenizer,
    )


def open_tensors(
    path: Path, branch: str | None, is_match: Callable[[Iterable[str]], bool]
) -> tuple[Tensors, str]:
    """The tensors of one file and the branch they are of, "" for none; raises `UserError`.

    Args:
        is_match: whether names belong to the weights that are looked for, see `open_torch`.
    """
    if path.suffix in TORCH_SUFFIXES:
        infos, read, branch_used = torch_files.open_torch(path, branch, is_match)
        return Tensors(infos, read), branch_used
    file = TensorFile(path)
    return Tensors(file.infos, file.read), ""


def is_known(names: Iterable[str]) -> bool:
    """Returns whether names, wrapped or not, belong to a part in some format."""
    unwrapped_names = set(map(unwrap, names))
    return any(name in unwrapped_names for _, _, name in SIGNATURES)


def identify(infos: Mapping[str, TensorInfo], path: Path) -> tuple[str, str]:
    """(part, format) by names without wrappers; raises `UserError` for what bvjax cannot take."""
    for part, format_name, name in SIGNATURES:
        if name in infos:
            if part == "text" and any(n.startswith("decoder.") for n in infos):
                raise UserError(f"{path} is a whole T5 model; give its encoder alone")
            return part, format_name
    first_names = listed(infos, 3)
    raise UnknownFormat(
        f"{path} has no format that bvjax knows; its tensors begin {first_names or 'nowhere'}"
    )


def _sharded(index: Path, files: list[Path]) -> Tensors:
    """All shards as one; raises `UserError` when they are not what the index says."""
    weight_map = _weight_map(index)
    shard_files = {file.name: TensorFile(file) for file in files}
    infos = {name: info for file in shard_files.values() for name, info in file.infos.items()}
    mismatched = [n for n, f in weight_map.items() if n not in shard_files[f].infos]
    mismatched += [n for n in infos if n not in weight_map]
    if mismatched:
        raise UserError(f"{index} and its shards do not agree about {listed(sorted(mismatched))}")
    return Tensors(infos, lambda name: shard_files[weight_map[name]].read(name))


def _weight_map(index: Path) -> dict[str, str]:
    """{tensor: file beside the index}; raises `UserError`."""
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(name, str) for name in weight_map.values()
    ):
        raise UserError(f"{index} is damaged: its weight_map must give the file of each tensor")
    for name in weight_map.values():
        if re.search(r"[/\\\x00-\x1f]", name) or name in ("", ".", ".."):
            raise UserError(f"{index} names {name[:40]!r}, which is no file in its folder")
    return weight_map

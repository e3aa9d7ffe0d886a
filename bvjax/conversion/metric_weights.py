"""Published checkpoints of the metric networks, made into NAME.safetensors once."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bvjax.conversion import torch_files
from bvjax.errors import UserError
from bvjax.files import sha256_of
from bvjax.lvbench import weights
from bvjax.lvbench.weights import FILES, WeightsFile
from bvjax.tensor_files import TensorFile, TensorInfo, TensorWriter

SUFFIXES = (".pth", ".pt")
PREFIX = "module."  # what torch.nn.DataParallel puts before every name
# What CLIP's archives hold beside the image encoder.
TEXT_TOWER = re.compile(
    r"(transformer|token_embedding|ln_final)\..*|positional_embedding|text_projection|logit_scale"
    r"|input_resolution|context_length|vocab_size"
)
# RAFT's residual units hold the norm of their shortcut under two names.
ALIASES = (".downsample.1.", ".norm3.")


class PublishedTensors(NamedTuple):
    """Shapes by name, and a function that reads one."""

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]


def convert(
    sources: Path | Sequence[Path],
    folder: Path | None = None,
    say: Callable[[str], object] = print,
) -> list[str]:
    """Converts all published files among `sources` and returns the weights' names.

    A file already converted is left as it is; another that stands in its place is replaced when the
    new one is whole.

    Args:
        sources: files, or folders that are searched with all below them.
        folder: where NAME.safetensors goes, `weights.default_folder()` unless given.
        say: called with a line for each file that was converted or skipped, and with warnings.

    Raises:
        UserError: nothing to convert; a file that was named is none of the published ones; a file
            is damaged, has another hash than its publisher's, or not the network's tensors; torch
            is missing.
    """
    folder = Path(folder or weights.default_folder())
    paths_by_name: dict[str, tuple[Path, str]] = {}
    for path in _files([sources] if isinstance(sources, str | os.PathLike) else sources, say):
        name, sha256 = recognise(path)
        if name in paths_by_name and paths_by_name[name][1] != sha256:
            raise UserError(
                f"{path} and {paths_by_name[name][0]} are both {name}; give one of them"
            )
        paths_by_name.setdefault(name, (path, sha256))
    if not paths_by_name:
        file_names = ", ".join(entry.file for entry in FILES.values())
        raise UserError(f"there is none of the published files to convert; they are {file_names}")
    folder.mkdir(parents=True, exist_ok=True)
    for name, (path, sha256) in paths_by_name.items():
        target = weights.path_of(name, folder)
        if _is_made_from(target, sha256):
            say(f"{path.name}: {target} is made of it already")
            continue
        convert_file(FILES[name], path, sha256, target, say)
    return list(paths_by_name)


def recognise(path: Path) -> tuple[str, str]:
    """(weights' name, sha256) of a published file: by its name, its hash or its tensors.

    Raises `UserError` for a file that is none of them.
    """
    sha256 = sha256_of(path)
    for entry in FILES.values():
        if entry.file == path.name or entry.sha256 == sha256:
            return entry.name, sha256
    if _is_archive(path):
        raise UserError(
            f"{path} is a TorchScript archive and none of those that are published for the metrics "
            "(by its sha256); archives hold programs, so it is not opened"
        )
    names = {name.removeprefix(PREFIX) for name in _open(path).shapes}
    for entry in FILES.values():
        if not entry.archive and set(entry.shapes()) <= names:
            return entry.name, sha256
    raise UserError(f"{path} is none of the metrics' published weights: {', '.join(FILES)}")


def convert_file(
    entry: WeightsFile,
    path: Path,
    sha256: str,
    target: Path,
    say: Callable[[str], object] = print,
) -> None:
    """Checks a published file and writes its network's tensors, float32, to `target`.

    Raises `UserError` (see `convert`).
    """
    if sha256 != entry.sha256:
        hash_note = f"{path} has the sha256 {sha256}; that of {entry.file} is {entry.sha256}"
        if entry.published or entry.archive:
            raise UserError(
                f"{hash_note} ({entry.hash_from}): it is damaged or another file, so it is not opened; "
                f"download it from {entry.address}"
            )
        say(f"warning: {hash_note} ({entry.hash_from})")
    tensors = _open_archive(path) if entry.archive else _open(path)
    expected = entry.shapes()
    names = _tensor_names(path, tensors, expected)
    weights.check_tensors(path, {new: tensors.shapes[old] for new, old in names.items()}, expected)
    metadata = {
        "source": entry.file,
        "source_sha256": sha256,
        "address": entry.address,
        "licence": entry.licence,
    }
    infos = {name: TensorInfo(tuple(shape), "float32") for name, shape in expected.items()}
    with TensorWriter(target, infos, metadata) as writer:
        for name in expected:
            values = tensors.read(names[name])
            if not np.issubdtype(values.dtype, np.floating):
                raise UserError(f"{path}: {name} is {values.dtype}, not a floating-point tensor")
            values = np.asarray(values, np.float32)
            if not np.isfinite(values).all():
                raise UserError(f"{path}: {name} holds numbers that are not finite")
            writer.write(name, values)
    say(f"{path.name}: {len(expected)} tensors, {entry.licence}, in {target}")


def _files(sources: Iterable[Path], say: Callable[[str], object]) -> list[Path]:
    """The files to convert; of folders those of published names, anything else is passed over."""
    published_names, paths = {entry.file for entry in FILES.values()}, []
    for source in map(Path, sources):
        if source.is_file():
            paths.append(source)
        elif source.is_dir():
            for path in sorted(p for p in source.rglob("*") if p.suffix in SUFFIXES):
                if path.name in published_names:
                    paths.append(path)
                else:
                    say(f"{path}: passed over, no published name; name the file to convert it")
        else:
            raise UserError(f"there is no file or folder {source}")
    return paths


def _is_made_from(target: Path, sha256: str) -> bool:
    """Returns whether `target` was converted from a source of this hash."""
    if not target.is_file():
        return False
    try:
        return TensorFile(target).metadata.get("source_sha256") == sha256
    except UserError:  # damaged: it is made again
        return False


def _open(path: Path) -> PublishedTensors:
    """A torch.save file.  What is no tensor is left out."""
    infos, read, _ = torch_files.open_torch(path)
    return PublishedTensors({name: info.shape for name, info in infos.items()}, read)


def _open_archive(path: Path) -> PublishedTensors:
    """A TorchScript archive.  Loading one may run what it holds: only after a hash that matches."""
    state = torch_files.import_torch(path).jit.load(path, map_location="cpu").state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return PublishedTensors(shapes, lambda name: state[name].detach().numpy())


def _is_archive(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _tensor_names(
    path: Path, tensors: PublishedTensors, expected: dict[str, tuple[int, ...]]
) -> dict[str, str]:
    """{name for the network: name in the file}, without what no network takes."""
    names = {}
    for source_name in tensors.shapes:
        name = source_name.removeprefix(PREFIX)
        if name.endswith(".num_batches_tracked"):
            continue
        if name not in expected and "visual.proj" in expected and TEXT_TOWER.fullmatch(name):
            continue
        names[name] = source_name
    for name in list(names):
        for prefix, twin_prefix in (ALIASES, ALIASES[::-1]):
            twin = name.replace(prefix, twin_prefix)
            if twin == name or name in expected or twin not in expected:
                continue
            if twin not in names:
                names[twin] = names[name]
            elif not np.array_equal(tensors.read(names[name]), tensors.read(names[twin])):
                raise UserError(
                    f"{path}: {name} and {twin} are one tensor in RAFT, but differ here"
                )
            del names[name]
            break
    return names

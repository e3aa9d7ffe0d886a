"""Checkpoints written by torch.save, read without running anything that they hold."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from bvjax.errors import UserError
from bvjax.file_kinds import check_kind
from bvjax.plain_text import listed
from bvjax.tensor_files import TensorInfo

# Training checkpoints nest the weights of several networks; of those named here the first is taken.
BRANCHES = ("generator_ema", "generator", "ema", "model_ema", "model", "module", "state_dict")
MAX_DEPTH = 4  # dictionaries within each other


def open_torch(
    path: Path,
    branch: str | None = None,
    is_match: Callable[[Iterable[str]], bool] = lambda names: True,
) -> tuple[dict[str, TensorInfo], Callable[[str], np.ndarray], str]:
    """Returns names and sizes, a reader, and the branch used ("" when the tensors lie at the top).

    The file is memory-mapped where its format allows (PyTorch 1.6 and later), and loaded with
    `weights_only`, which calls nothing that the file names.  What is no tensor (step counts, the
    training's configuration) is left out; objects of classes of a file of PyTorch 1.6 and later are
    read as placeholders, of earlier ones refused.

    Args:
        branch: which weights of a file that holds several, as "generator" or "state.generator".
        is_match: whether the names of tensors belong to the weights that are looked for.

    Raises:
        UserError: torch is not installed, the file is damaged or holds what cannot be read without
            running it, or there is no such branch.
    """
    check_kind(path)
    torch = import_torch(path)
    allowed_classes = contextlib.nullcontext()
    zipped = zipfile.is_zipfile(path)
    try:
        if zipped:
            other_classes = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            allowed_classes = torch.serialization.safe_globals(
                [(_Placeholder, name) for name in other_classes]
            )
        with allowed_classes:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception:  # torch raises half a dozen unrelated kinds, and advises to load unsafely
        raise UserError(
            f"{path} is damaged, not a torch.save file, or holds more than tensors and plain values"
        ) from None
    tensors, branch_used = choose_branch(
        state, branch, path, is_match, lambda x: isinstance(x, torch.Tensor)
    )
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise UserError(f"{path}: {name} is no plain tensor")
    infos = {name: TensorInfo(tuple(x.shape), _dtype(x)) for name, x in tensors.items()}
    return infos, lambda name: _array(tensors[name]), branch_used


def choose_branch(
    state: Any,
    branch: str | None,
    path: Path,
    is_match: Callable[[Iterable[str]], bool],
    is_tensor: Callable[[Any], bool],
) -> tuple[dict[str, Any], str]:
    """(tensors, branch) in what a file holds: dictionaries of tensors, at any depth.

    Raises:
        UserError: there are no weights, no such branch, or several and none of them named.
    """
    groups = dict(_tensor_groups(state, is_tensor))
    candidates = {name: x for name, x in groups.items() if is_match(x)}
    legal = listed(name for name in candidates if name)
    if branch:
        matches = [n for n in candidates if n and (n == branch or branch in n.split("."))]
        if not matches:
            hint = f"it has {legal}" if legal else "its tensors lie at the top; leave out `branch`"
            raise UserError(
                f"{path} has no {branch!r}: {hint}" if candidates else f"{path} has no weights"
            )
        if len(matches) > 1 and branch not in matches:
            raise UserError(f"{path} has several {branch!r}: {listed(matches)}")
        selected_name = branch if branch in matches else matches[0]
        return candidates[selected_name], selected_name
    if not candidates:
        names = listed(name for tensors in groups.values() for name in tensors)
        raise UserError(
            f"{path} has no weights that bvjax knows; its tensors are {names or 'none'}"
        )
    for name in ("", *BRANCHES):
        for group, tensors in candidates.items():
            if name in group.split("."):
                return tensors, group
    if len(candidates) > 1:
        raise UserError(f"{path} holds several weights; name one with `branch`: {legal}")
    return next((tensors, name) for name, tensors in candidates.items())


def _tensor_groups(
    state: Any, is_tensor: Callable[[Any], bool], path: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ("a.b", its tensors) for each dictionary that holds some."""
    if not isinstance(state, Mapping) or len(path) > MAX_DEPTH:
        return
    tensors = {name: x for name, x in state.items() if isinstance(name, str) and is_tensor(x)}
    if tensors:
        yield ".".join(path), tensors
    for name, value in state.items():
        if isinstance(name, str):
            yield from _tensor_groups(value, is_tensor, (*path, name))


def import_torch(path: Path) -> Any:
    """The torch module; raises `UserError` that says how to read `path` where it is missing."""
    try:
        import torch
    except ImportError:
        raise UserError(
            f"reading {path.name} needs PyTorch: run the command with .venv-torch/bin/python "
            "(make setup-torch), or 'pip install torch'"
        ) from None
    return torch


class _Placeholder(dict):
    """A placeholder for objects of all other classes: nothing is called or imported."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Placeholder:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _array(tensor: Any) -> np.ndarray:
    import torch

    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:  # NumPy has no such type of its own
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    if tensor.dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        return tensor.view(torch.uint8).numpy().view(_dtype(tensor))
    return tensor.numpy()

"""Checkpoints written by torch.save, read without running anything that they hold."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from bvjax.errors import UserError
from bvjax.tensor_files import TensorInfo

# Training checkpoints nest the weights under one of these; of two the first is taken.
BRANCHES = ("generator_ema", "generator", "model", "module", "state_dict")


def open_torch(
    path: Path, branch: str | None = None, ignore_others: bool = False
) -> tuple[dict[str, TensorInfo], Callable[[str], np.ndarray], str]:
    """Names and sizes, a reader, and the branch used ("" when the tensors lie at the top).

    The file is memory-mapped where its format allows (PyTorch 1.6 and later), and loaded with
    `weights_only`, which refuses anything but tensors.

    Args:
        ignore_others: read a placeholder in place of each object that is none, instead of refusing
            (some published checkpoints hold their training configuration beside the tensors).

    Raises:
        UserError: torch is not installed, the file is damaged or holds more than tensors, or there
            is no such branch.
    """
    torch = import_torch(path)
    known = contextlib.nullcontext()
    try:
        if ignore_others and zipfile.is_zipfile(path):
            others = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            known = torch.serialization.safe_globals([(_Inert, name) for name in others])
        with known:
            state = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except Exception as error:  # torch raises half a dozen unrelated kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{path} is damaged, not a torch.save file, or holds more than tensors ({reason})"
        ) from None
    state, used = _weights(state, branch, path)
    infos = {name: TensorInfo(tuple(x.shape), _dtype(x)) for name, x in state.items()}
    return infos, lambda name: _array(state[name]), used


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


class _Inert(dict):
    """What `weights_only` makes of an object of any other class: nothing is called or imported."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass


def _weights(state: Any, branch: str | None, path: Path) -> tuple[Mapping[str, Any], str]:
    """The dictionary of tensors in what was loaded."""
    import torch

    def is_state(x: Any) -> bool:
        return isinstance(x, Mapping) and any(isinstance(v, torch.Tensor) for v in x.values())

    if is_state(state):
        if branch:
            raise UserError(
                f"{path} has no {branch!r}: its tensors lie at the top; leave out --branch"
            )
        chosen, used = state, ""
    else:
        found = {}
        if isinstance(state, Mapping):
            found = {name: x for name, x in state.items() if is_state(x)}
        legal = [name for name in BRANCHES if name in found] + [
            n for n in found if n not in BRANCHES
        ]
        if not legal or (branch and branch not in found):
            raise UserError(
                f"{path} has no {branch or 'weights'}; it has {', '.join(legal) or 'none'}"
            )
        used = branch or legal[0]
        chosen = found[used]
    tensors = {name: x for name, x in chosen.items() if isinstance(x, torch.Tensor)}
    if len(tensors) != len(chosen):
        others = sorted(str(name) for name in chosen if name not in tensors)
        raise UserError(f"{path} holds entries that are not tensors: {', '.join(others)}")
    return tensors, used


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _array(tensor: Any) -> np.ndarray:
    import torch

    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:  # NumPy has no such type of its own
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()

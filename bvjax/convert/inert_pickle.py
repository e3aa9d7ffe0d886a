"""A pickle module for torch.load that makes tensors, and nothing else, of what a file names.

Some published checkpoints hold a training configuration or scores beside their tensors, in classes
that need not be installed here and that `weights_only` refuses.  Here every such name becomes an
`Inert`, which takes whatever the file does to it and does nothing.
"""

from __future__ import annotations

import collections
import pickle
from typing import Any

PLAIN = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
}
TENSORS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")  # of torch._utils
STORAGES = "Storage"  # how torch's storage types end


class Inert(dict):
    """Stands for an object of a class that is not wanted."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    def add(self, value: Any) -> None:
        pass


class Unpickler(pickle.Unpickler):
    """Knows the names that tensors are made of."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in PLAIN:
            return PLAIN[module, name]
        if module == "torch._utils" and name in TENSORS:
            import torch._utils

            return getattr(torch._utils, name)
        if module == "torch" and name.endswith(STORAGES) and name.isidentifier():
            import torch

            found = getattr(torch, name, None)
            return found if isinstance(found, type) else Inert
        return Inert


def load(file: Any, **options: Any) -> Any:
    """`pickle.load` with that."""
    return Unpickler(file, **options).load()

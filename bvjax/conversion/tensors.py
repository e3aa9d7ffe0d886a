"""Named tensors, wherever they lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from bvjax.tensor_files import TensorInfo


class Tensors(NamedTuple):
    """Names and sizes of tensors, and a function that reads one."""

    infos: Mapping[str, TensorInfo]
    read: Callable[[str], np.ndarray]

    def renamed(self, names: Mapping[str, str]) -> Tensors:
        """Returns the tensors of `names`, {new name: present name}, under their new names."""
        return Tensors(
            {new: self.infos[old] for new, old in names.items()},
            lambda name: self.read(names[name]),
        )

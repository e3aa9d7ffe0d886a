"""PyTorch checkpoints in and out: name tables, detection, strict streaming conversion, LoRA.

The package itself can be called, `bvjax.convert(source, target, "bvjax")`: see `converter.convert`.
"""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bvjax.config import ModelConfig


class _Package(types.ModuleType):
    def __call__(self, *args: Any, **options: Any) -> ModelConfig:
        from bvjax.convert.converter import convert

        return convert(*args, **options)


sys.modules[__name__].__class__ = _Package

"""Prefixes that training wrappers add to tensor names, and the names without them.

FSDP, activation checkpointing, torch.compile, DistributedDataParallel and the trainers' own classes
hold a module as an attribute, so each adds one word to the names of all that is inside it: in front
of all names, or in the middle of those of one layer, in any order and number.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from pathlib import Path

from bvjax.errors import UserError

# No format that bvjax knows has a module of one of these names.
WRAPPERS = frozenset(
    {
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
        "_orig_mod",
        "module",
        "model",
        "diffusion_model",
    }
)


def unwrap(name: str, wrappers: Set[str] = WRAPPERS) -> str:
    """The name without the words of wrappers; the last word, the tensor's own, stays."""
    *modules, tensor = name.split(".")
    return ".".join([*(word for word in modules if word not in wrappers), tensor])


def unwrap_all(names: Iterable[str], path: Path) -> dict[str, str]:
    """{name without wrappers: name}; raises `UserError` where two become one."""
    originals: dict[str, str] = {}
    for name in names:
        bare_name = unwrap(name)
        if bare_name in originals:
            raise UserError(
                f"{path} holds {bare_name} twice: as {originals[bare_name]} and as {name}"
            )
        originals[bare_name] = name
    return originals

"""Fields of configurations by the names that they had before: what was written or typed then is still read.

A row stays for one release after the change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Renamed:
    """The name of now, and the values of now for those that are called otherwise too."""

    name: str
    values: Mapping[Any, Any] = dataclasses.field(default_factory=dict)


# By class, then by the old name of a field.
FIELDS: dict[str, dict[str, Renamed]] = {
    "ModelConfig": {"cfg": Renamed("guidance")},
    "VAEConfig": {"stage_patch": Renamed("stem_patch")},
    "DiTConfig": {
        "products": Renamed("matmul_precision"),
        "place_embedding": Renamed("spatial_position_embedding"),
        "output": Renamed("preconditioning", {"velocity": "none", "residual": "linear"}),
    },
    "MemoryConfig": {"place": Renamed("offload", {"device": "none"})},
    "SamplerConfig": {"grid": Renamed("schedule")},
    "RetrievalConfig": {"l": Renamed("num_retrieved"), "recent": Renamed("num_recent")},
}


def current(cls: type, name: str) -> str:
    """Returns the name that a field of the class has now."""
    row = FIELDS.get(cls.__name__, {}).get(name)
    return name if row is None else row.name


def current_value(cls: type, name: str, value: Any) -> Any:
    """Returns the value that means now what `value` meant under the old name; `name` as it was written."""
    row = FIELDS.get(cls.__name__, {}).get(name)
    known = row is not None and isinstance(value, str) and value in row.values
    return row.values[value] if row is not None and known else value

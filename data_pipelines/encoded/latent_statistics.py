"""Statistics of latents by channel, made example by example and added up."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float

_FIELDS = ("total", "squares", "least", "most")


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """Sums over all values of each channel; `count` values a channel. Empty for none."""

    count: int
    total: Float[np.ndarray, "z"]
    squares: Float[np.ndarray, "z"]
    least: Float[np.ndarray, "z"]
    most: Float[np.ndarray, "z"]

    @staticmethod
    def of(latents: Float[np.ndarray, "l h w z"]) -> Statistics:
        """The statistics of one example, summed in float64."""
        values = latents.reshape(-1, latents.shape[-1]).astype(np.float64)
        return Statistics(
            len(values), values.sum(0), (values**2).sum(0), values.min(0), values.max(0)
        )

    @staticmethod
    def none() -> Statistics:
        return Statistics(0, *[np.zeros(0)] * 4)

    def __add__(self, other: Statistics) -> Statistics:
        if not self.count or not other.count:
            return self if self.count else other
        return Statistics(
            self.count + other.count,
            self.total + other.total,
            self.squares + other.squares,
            np.minimum(self.least, other.least),
            np.maximum(self.most, other.most),
        )

    def summary(self) -> dict[str, Any]:
        """Mean, standard deviation, least and largest value of each channel; JSON has it."""
        if not self.count:
            return {"values": 0}
        mean = self.total / self.count
        std = np.sqrt(np.maximum(self.squares / self.count - mean**2, 0))
        numbers = {"mean": mean, "std": std, "least": self.least, "most": self.most}
        return {"values": self.count} | {k: _rounded(v) for k, v in numbers.items()}

    def to_json(self) -> dict[str, Any]:
        """All that `of_json` needs."""
        return {"count": self.count} | {name: getattr(self, name).tolist() for name in _FIELDS}

    @staticmethod
    def of_json(content: Any) -> Statistics:
        """Raises KeyError, TypeError or ValueError for what is none."""
        arrays = [np.asarray(content[name], np.float64) for name in _FIELDS]
        if len({a.shape for a in arrays}) > 1 or arrays[0].ndim != 1:
            raise ValueError("channels")
        return Statistics(int(content["count"]), *arrays)


def add(parts: Iterable[Statistics]) -> Statistics:
    """The statistics of all of them together."""
    total = Statistics.none()
    for part in parts:
        total = total + part
    return total


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 5) for value in values]

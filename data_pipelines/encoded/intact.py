"""Examples that can be read: a damaged one is left out, told of by name, and counted."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping

import numpy as np
from absl import logging
from jaxtyping import Float

from bvjax.errors import UserError
from bvjax.finite import is_finite
from bvjax.train.task import EXAMPLE
from data_pipelines.encoded.example import ExampleSpec, Source


class DamagedExample(UserError):
    """One example cannot be used: its file is damaged, or it holds what is no finite number."""


@dataclasses.dataclass(frozen=True, eq=False)
class Intact:
    """A `Source` whose damaged examples are stood in for by the next one that is intact.

    Which one that is depends on the source alone, so that every process and every resumed run has the same.  More
    than `limit` of them in this process are refused. Its items have one more array, `EXAMPLE`: an int32 scalar.
    """

    source: Source
    limit: int = 10
    damaged: dict[int, str] = dataclasses.field(default_factory=dict)
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock, repr=False)

    @property
    def title(self) -> str:
        return self.source.title

    @property
    def spec(self) -> ExampleSpec:
        return self.source.spec

    @property
    def null_text(self) -> Float[np.ndarray, "t dt"]:
        return self.source.null_text

    def __len__(self) -> int:
        return len(self.source)

    def name_of(self, number: int) -> str:
        """How messages call an example."""
        name_of = getattr(self.source, "name_of", None)
        return name_of(number) if name_of else f"number {number}"

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Example `index`, or the next one that is intact.

        Raises:
            UserError: more than `limit` examples are damaged; they are named.
        """
        for offset in range(len(self)):
            number = (index + offset) % len(self)
            example = self._read(number)
            if example is not None:
                return {**example, EXAMPLE: np.array(number, np.int32)}
        raise UserError(f"none of {self.title} can be used: {self._listed()}")

    def _read(self, number: int) -> Mapping[str, np.ndarray] | None:
        try:
            example = self.source[number]
            bad = [name for name, array in example.items() if not is_finite(array)]
            if not bad:
                return example
            reason = f"{', '.join(bad)} not finite"
        except DamagedExample as error:
            reason = str(error)
        with self._lock:
            if number not in self.damaged:
                self.damaged[number] = reason
                logging.warning(
                    "the example %s is left out (%d so far): %s",
                    self.name_of(number),
                    len(self.damaged),
                    reason,
                )
            if len(self.damaged) > self.limit:
                raise UserError(
                    f"{len(self.damaged)} of {self.title} are damaged, data.max_damaged is {self.limit}: "
                    f"{self._listed()}"
                )
        return None

    def _listed(self) -> str:
        return "; ".join(f"{self.name_of(n)}: {reason}" for n, reason in self.damaged.items())

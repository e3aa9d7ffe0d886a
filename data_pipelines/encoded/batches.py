"""Batches of a source of examples: shuffled, endless, and able to say and take back where they stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grain.python as grain
import numpy as np

from bvjax.config import ModelConfig
from bvjax.errors import UserError
from data_pipelines.encoded.example import ExampleSpec, Source
from data_pipelines.encoded.intact import Intact
from data_pipelines.row_batches import row_batches

EXAMPLES = "examples"  # of a state: how many the source had


class Batches:
    """Endless batches of whole examples, or of a process' share of each.

    Besides the arrays of examples a batch has `task.EXAMPLE`, their numbers [b], of which `name_of` makes names.
    """

    def __init__(self, source: Intact, iterator: grain.DatasetIterator):
        self._source, self._iterator = source, iterator

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        return next(self._iterator)

    @property
    def damaged(self) -> int:
        """How many examples were left out because they cannot be read."""
        return len(self._source.damaged)

    def name_of(self, number: int) -> str:
        """How messages call an example."""
        return self._source.name_of(number)

    def get_state(self) -> dict[str, Any]:
        """The position after the batches handed out so far, the same in every process; JSON has it."""
        return {**self._iterator.get_state(), EXAMPLES: len(self._source)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on at a position; raises `UserError` where the source has another number of examples now."""
        state = dict(state)
        count = state.pop(EXAMPLES, len(self._source))  # older states do not say
        if count != len(self._source):
            raise UserError(
                f"{self._source.title} are {len(self._source)}, this run was begun with {count}, and its order "
                f"depends on their number; set data.stories={count} if there are more"
            )
        self._iterator.set_state(state)


def batches(
    source: Source,
    size: int,
    seed: int,
    rows: Sequence[int] | None = None,
    max_damaged: int = 10,
) -> Batches:
    """Endless batches of whole examples; its get_state/set_state resume it exactly.

    Args:
        source: the examples.
        size: of a batch.
        seed: of the order.
        rows: those of each batch that this process reads; None: all.
        max_damaged: more damaged examples are refused, see `Intact`.

    Raises:
        UserError: the source has fewer examples than a batch.
    """
    if len(source) < size:
        raise UserError(
            f"a batch of {size} examples needs as many encoded ones; {source.title} are {len(source)}"
        )
    intact = Intact(source, max_damaged)
    examples = grain.MapDataset.source(intact).shuffle(seed=seed).repeat()
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return Batches(intact, iter(row_batches(examples, size, rows).to_iter_dataset(options)))


def check_fits(source: Source, model: ModelConfig) -> None:
    """Raises `UserError` unless examples and empty caption of a source are of the sizes of `model`."""
    spec = source.spec
    expected = ExampleSpec.of(model, spec.chunks, spec.extras).shapes()
    sizes = spec.shapes() | {"null_text": source.null_text.shape}
    for name, shape in (expected | {"null_text": expected["text"][1:]}).items():
        if sizes[name] != shape:
            raise UserError(
                f"{source.title} are of another model: {name} is {list(sizes[name])}, not {list(shape)}"
            )

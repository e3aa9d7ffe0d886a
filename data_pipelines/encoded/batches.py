"""Batches of a source of examples: shuffled, endless, and able to say and take back where they stand."""

from __future__ import annotations

import grain.python as grain

from bvjax.config import ModelConfig
from bvjax.errors import UserError
from data_pipelines.encoded.example import ExampleSpec, Source


def batches(source: Source, size: int, seed: int) -> grain.DatasetIterator:
    """Endless batches of whole examples; its get_state/set_state resume it exactly.

    Raises:
        UserError: the source has fewer examples than a batch.
    """
    if len(source) < size:
        raise UserError(
            f"a batch of {size} examples needs as many encoded ones; {source.title} are {len(source)}"
        )
    dataset = (
        grain.MapDataset.source(source).shuffle(seed=seed).repeat().batch(size, drop_remainder=True)
    )
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return iter(dataset.to_iter_dataset(options))


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

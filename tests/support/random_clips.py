"""A folder of encoded clips with nothing in them, for tests of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_pipelines.encoded.example import ExampleSpec
from data_pipelines.encoded.folder import example_path, write_example, write_null_text
from data_pipelines.encoded.manifest import claim


def random_clips(tiny, root: Path, chunks: int, heldout: str) -> None:
    """Fills `root`: four clips to train on, and two in the split `heldout`."""
    rng = np.random.default_rng(0)
    root.mkdir()
    claim(root, tiny.weights, tiny.model)
    shapes = ExampleSpec.of(tiny.model, chunks, ()).shapes()
    for number in range(6):
        clip = {name: rng.normal(size=shape) for name, shape in shapes.items()}
        write_example(example_path(root, "train" if number < 4 else heldout, f"{number}"), clip)
    write_null_text(root, rng.normal(size=shapes["text"][1:]))

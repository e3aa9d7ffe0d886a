"""Live parity with PyTorch: nothing here is collected where torch is not installed.

What the tests measure goes into docs/parity.md by way of the fixture `record_parity`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib

import pytest

collect_ignore_glob = ["test_*.py"]
if importlib.util.find_spec("torch"):
    import torch

    collect_ignore_glob = []
    torch.set_num_threads(1)  # models are tiny, and tests run side by side
RECORDS = "BVJAX_PARITY_RECORDS"  # a file to which each comparison adds a line; unset: none does


@pytest.fixture(scope="session")
def record_parity():
    """record_parity(name, reference, error, tolerance, size=None): asserts, and notes it down.

    Args:
        name: what is compared, for example "DiT, per-frame sigma": a row of the table; comparisons
            of one name and reference share it, and the largest error counts.
        reference: what it is compared with, for example "diffusers WanTransformer3DModel".
        error: the largest absolute difference; 0 for what is equal.
        tolerance: above which the test fails.
        size: the largest absolute value of what is compared, where that says something.
    """

    def record(name: str, reference: str, error, tolerance, size=None) -> None:
        row = {"name": name, "reference": reference, "error": float(error)}
        row |= {"tolerance": float(tolerance), "size": None if size is None else float(size)}
        if RECORDS in os.environ:
            with pathlib.Path(os.environ[RECORDS]).open("a") as file:
                file.write(json.dumps(row) + "\n")
        assert error <= tolerance, f"{name} is off by {error:.3g} from {reference} ({tolerance:g})"

    return record

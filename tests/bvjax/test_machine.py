"""What JAX and NumPy raise for want of memory or of a device becomes one sentence."""

import numpy as np
import pytest

from bvjax import console, machine
from bvjax.errors import UserError, WorkError

XLA = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1.50TiB.\n  more lines"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "out of memory on the host: lower memory.capacity"),
        (
            RuntimeError(XLA),
            "out of memory on the device (1.50 TiB at once): lower memory.capacity",
        ),
        (
            RuntimeError("Out of memory allocating 70368744177664 bytes."),
            "out of memory on the device (70,368.7 GB at once): lower",
        ),
        (RuntimeError("INTERNAL: CUDA_ERROR_OUT_OF_MEMORY"), "out of memory on the device: lower"),
    ],
)
def test_out_of_memory_names_what_to_lower(error, told):
    made = machine.translated(error)
    assert isinstance(made, WorkError) and str(made).startswith(told)
    assert all(name in str(made) for name in ("memory.slots", "memory.dtype", "memory.offload"))


def test_an_array_that_nothing_can_hold(capsys):
    assert console.run(lambda: np.empty(2**56), "me") == 1
    told = capsys.readouterr().err
    assert told.startswith("me: out of memory on the host (512 PiB at once): ")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("asked", "told"), [("cuda", "cannot use 'cuda'"), ("", "finds no device")]
)
def test_a_device_that_is_not_there(monkeypatch, capsys, asked, told):
    monkeypatch.setenv("JAX_PLATFORMS", asked)
    error = RuntimeError("Unable to initialize backend 'cuda': no such\n library")
    assert isinstance(machine.translated(error), UserError)

    def command():
        raise error

    assert console.run(command, "me") == 2
    said = capsys.readouterr().err
    assert f"JAX {told}" in said and said.count("\n") == 1


def test_an_assertion_without_a_word_is_about_the_device_where_there_is_none(monkeypatch):
    assert machine.translated(AssertionError()) is None
    monkeypatch.setattr(machine, "has_device", lambda: False)
    assert "no device" in str(machine.translated(AssertionError()))


@pytest.mark.parametrize("error", [RuntimeError("else"), AssertionError("x"), ValueError("memory")])
def test_other_errors_are_left_alone(error):
    assert machine.translated(error) is None

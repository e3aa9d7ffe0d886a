"""The type checker that tests switch on: beartype for functions, with jaxtyping's shapes."""

from __future__ import annotations

from beartype import beartype


def functions(function):
    """Checks calls of `function`, except constructors: JAX also builds its pytrees around shapes,
    shardings and axis numbers, which are no arrays."""
    return function if function.__name__ == "__init__" else beartype(function)

"""The type checker that tests switch on: beartype for functions, with jaxtyping's shapes."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

CHECKED = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float


def functions(function):
    """Checks calls of `function`, except constructors: JAX also builds its pytrees around shapes,
    shardings and axis numbers, which are no arrays."""
    return function if function.__name__ == "__init__" else CHECKED(function)

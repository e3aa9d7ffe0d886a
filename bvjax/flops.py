"""Floating-point operations of a program: its matmuls and convolutions, counted by part.

`count` walks the traced program, so what it says holds for any model, forward or backward, with
recomputation.  Loops of known length count as often as they run, those whose length is drawn once.
Compilers' own counts take any loop's body once and a kernel for nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax


def count(fn: Callable, *args: Any, part: Callable[[str], str] = lambda path: "all") -> Counter:
    """FLOPs of `fn(*args)` by part; args may be `jax.ShapeDtypeStruct`s.

    Attention is counted over all rows that its shapes have, and kernels are traced in their plain
    form: call it on a CPU, or with a layout without a mesh.

    Args:
      part: name of the part that an operation at a path of named scopes belongs to.
    """
    return count_traced(jax.make_jaxpr(fn)(*args).jaxpr, part)


def count_traced(jaxpr: Any, part: Callable[[str], str] = lambda path: "all") -> Counter:
    """FLOPs of a traced program by part, as `count`."""
    counts: Counter = Counter()
    _walk(jaxpr, 1, "", part, counts)
    return counts


def dit_part(path: str) -> str:
    """The part of a DiT whose matmuls a path of scopes names."""
    names = path.split("/")
    if "self_attn" in names or "cross_attn" in names:
        which = "self" if "self_attn" in names else "cross"
        return "projections" if set(names) & set("qkvo") else f"{which}-attention"
    return "projections" if "ffn" in names else "embeddings, head"


def _walk(jaxpr, times: int, path: str, part, counts: Counter) -> None:
    for eqn in jaxpr.eqns:
        here = "/".join(filter(None, (path, str(eqn.source_info.name_stack))))
        name = eqn.primitive.name
        if name == "dot_general":
            counts[part(here)] += times * _matmul(eqn)
        elif name == "conv_general_dilated":
            counts[part(here)] += times * _convolution(eqn)
        inner = times * eqn.params["length"] if name == "scan" else times
        branches = eqn.params.get("branches")
        if branches:  # of a condition: the most expensive
            costs: list[Counter] = []
            for branch in branches:
                costs.append(Counter())
                _walk(branch.jaxpr, inner, here, part, costs[-1])
            counts.update(max(costs, key=Counter.total))
            continue
        for value in eqn.params.values():
            body = getattr(value, "jaxpr", value)
            if hasattr(body, "eqns"):
                _walk(body, inner, here, part, counts)


def _matmul(eqn) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    shared = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
    return 2 * shared * math.prod(eqn.outvars[0].aval.shape)


def _convolution(eqn) -> int:
    kernel, out = eqn.invars[1].aval.shape, eqn.outvars[0].aval.shape
    features = eqn.params["dimension_numbers"].rhs_spec[0]
    taps = math.prod(n for axis, n in enumerate(kernel) if axis != features)
    return 2 * taps * math.prod(out)

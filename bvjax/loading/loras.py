"""LoRAs at work in generation: a DiT with the changes of files in its weights, at strengths of each chunk's own.

The changes are summed into the weights, W + sum_i n_i D_i, when strengths change, and not computed beside each
product as x W + n (x down) up.  The programs of a chunk then take these weights as they take any, so that nothing is
compiled again, a step costs what it costs without LoRAs, and LoHa, LoKr, DoRA and whole changes of a weight need
nothing of the network.  What it takes: between two chunks one pass over the changed weights (strengths are arguments
of that program, one for each shape of a change), and memory for the changed weights beside the unchanged ones, which
stay where they are because W + D - D is not W in floating point: a LoRA that is switched off is off to the bit.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Bool, Float, Int

from bvjax import weights
from bvjax.config import ModelConfig
from bvjax.conversion import lora as lora_files
from bvjax.conversion import low_rank
from bvjax.conversion.lora import Lora
from bvjax.conversion.tables import TensorSpec
from bvjax.errors import UserError
from bvjax.files import sha256_of
from bvjax.finite import is_finite
from bvjax.plain_text import listed
from bvjax.weights import Params

Path = str | os.PathLike
# FILE or FILE:STRENGTH, one or several, or {FILE: STRENGTH}.
Given = Path | Sequence[Path] | Mapping[Path, float]


class Form(NamedTuple):
    """The part of a change that a program must know when it is compiled."""

    lora: int  # index of its file
    spec: TensorSpec  # without names, so that all layers share a program


@dataclasses.dataclass(frozen=True, eq=False)
class Loras:
    """LoRA files that fit a DiT, opened; the strengths of each are those that a run begins with."""

    files: tuple[Lora, ...] = ()
    sha256: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.files)

    @property
    def strengths(self) -> tuple[float, ...]:
        return tuple(lora.strength for lora in self.files)

    def check(self, strengths: Sequence[float], where: str) -> tuple[float, ...]:
        """Strengths, one for each file, as numbers; raises `UserError` that begins with `where`."""
        if len(strengths) != len(self.files):
            raise UserError(
                f"{where} has {len(strengths)} strengths; there are {len(self.files)} LoRAs"
            )
        for lora, strength in zip(self.files, strengths, strict=True):
            if not math.isfinite(strength):
                raise UserError(f"{where} is {strength} for {lora.path}; it must be finite")
            if strength < 0:
                lora_files.check_reversible(lora)
        return tuple(float(strength) for strength in strengths)


def open_loras(given: Given | None, model: ModelConfig) -> Loras:
    """Opens LoRA files for the DiT of `model`, in any format that `convert --lora` takes.

    Raises `UserError` for one that is not there, is damaged or not finite, does not fit, or is given twice.
    """
    files = [lora_files.open_lora(path, strength, model) for path, strength in _pairs(given)]
    hashes = [sha256_of(lora.path) for lora in files]
    for lora, sha256 in zip(files, hashes, strict=True):
        if hashes.count(sha256) > 1:
            raise UserError(f"the LoRA {lora.path} is given twice; give it once")
        for name, change in lora.changes.items():
            if not all(is_finite(array) for array in lora_files.factors(lora, change).values()):
                raise UserError(
                    f"{lora.path} has values that are not finite in its change of {name}"
                )
    return Loras(tuple(files), tuple(hashes))


def _pairs(given: Given | None) -> list[tuple[pathlib.Path, float]]:
    if given is None:
        return []
    if isinstance(given, Mapping):
        return [(pathlib.Path(file), float(strength)) for file, strength in given.items()]
    if isinstance(given, (str, os.PathLike)):
        given = [given]
    return [lora_files.parse(os.fspath(text)) for text in given]


class MergedParams:
    """A DiT's parameters at given strengths; those asked for last are kept."""

    def __init__(self, base: Callable[[], Params], loras: Loras):
        """`base` returns the parameters without any LoRA."""
        self._base, self._loras = base, loras
        self._last: tuple[tuple[float, ...], Params] | None = None

    def at(self, strengths: Sequence[float]) -> Params:
        """The parameters at strengths, one for each file; with all 0 those of the weights folder themselves."""
        strengths = tuple(strengths)
        if not any(strengths):
            return self._base()
        if self._last is None or self._last[0] != strengths:
            self._last = None  # freed before the others are made
            self._last = (strengths, merge(self._base(), self._loras, strengths))
        return self._last[1]


def merge(params: Params, loras: Loras, strengths: Sequence[float]) -> Params:
    """W + sum_i n_i D_i in float32, one LoRA after the other, rounded once to the dtype of W.

    A layer at a time, so that one layer's changes are in float32 at once. Leaves keep their dtype and how they are
    sharded over devices; those that no file changes are the same arrays.

    Raises:
        UserError: a value is not finite in the dtype of the weights.
    """
    flat, changed, finite = weights.flatten(params), {}, {}
    numbers = np.asarray(strengths, np.float32)
    for name, (leaf, layer) in weights.disk_names(flat).items():
        changes = [
            (index, lora, lora.changes[name])
            for index, lora in enumerate(loras.files)
            if name in lora.changes
        ]
        if not changes:
            continue
        if leaf not in changed:
            base = flat[leaf]
            changed[leaf] = jnp.copy(base) if isinstance(base, jax.Array) else jnp.array(base)
        forms = tuple(Form(index, _without_names(change.spec)) for index, _, change in changes)
        tensors = tuple(lora_files.factors(lora, change) for _, lora, change in changes)
        scales = tuple(np.float32(change.scale) for _, _, change in changes)
        at = None if layer is None else np.int32(layer)
        changed[leaf], finite[name] = _changed(changed[leaf], at, tensors, scales, numbers, forms)
    bad = sorted(name for name, ok in finite.items() if not bool(ok))
    if bad:
        names = listed(str(lora.path) for lora in loras.files)
        dtype = next(iter(changed.values())).dtype
        raise UserError(
            f"{names}: {listed(bad)} would not be finite in {dtype}; take a lower strength"
        )
    for leaf, array in changed.items():
        if isinstance(flat[leaf], jax.Array):
            changed[leaf] = jax.device_put(array, flat[leaf].sharding)
    return traverse_util.unflatten_dict(flat | changed, sep="/")


def _without_names(spec: TensorSpec) -> TensorSpec:
    return spec._replace(name="", external_name="")


@functools.partial(jax.jit, static_argnames="forms", donate_argnames="leaf")
def _changed(
    leaf: Float[Array, "..."],
    layer: Int[Array, ""] | None,
    tensors: tuple[dict[str, Array], ...],
    scales: tuple[Float[Array, ""], ...],
    strengths: Float[Array, "loras"],
    forms: tuple[Form, ...],
) -> tuple[Float[Array, "..."], Bool[Array, ""]]:
    """A leaf with the changes of one of its layers (None: it has none), and whether they are finite."""
    total = (leaf if layer is None else leaf[layer]).astype(jnp.float32)
    with jax.default_matmul_precision("highest"):
        for form, factors, scale in zip(forms, tensors, scales, strict=True):
            weight = to_external(form.spec, total)
            delta = low_rank.change(factors, scale, weight) * strengths[form.lora]
            total = total + to_internal(form.spec, delta)
    result = total.astype(leaf.dtype)
    finite = jnp.isfinite(result).all()
    return (result if layer is None else leaf.at[layer].set(result)), finite


def to_external(spec: TensorSpec, array: Array) -> Array:
    """`TensorSpec.to_external` of an array of JAX."""
    if spec.axes is None:
        return array.reshape(spec.external_shape)
    split = array.reshape([spec.external_shape[axis] for axis in spec.axes])
    return split.transpose([spec.axes.index(axis) for axis in range(len(spec.axes))])


def to_internal(spec: TensorSpec, array: Array) -> Array:
    """`TensorSpec.to_internal` of an array of JAX."""
    if spec.axes is not None:
        array = array.transpose(spec.axes)
    return array.reshape(spec.shape)

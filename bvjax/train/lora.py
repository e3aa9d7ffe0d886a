"""A LoRA of the DiT as what is trained: W + alpha / rank * up down, with W as it was (Hu et al. 2021, arXiv 2106.09685).

The sum is made once a step, before the network, and not as a branch beside each product.  It is the very sum that
`loading.loras` makes in generation, it fits every kernel whatever layer it is of, and layers that share a stacked
leaf share one product.  The price is one whole gradient of each changed kernel beside the low-rank ones; what a LoRA
saves is the optimizer's state and the moving average, which are of the factors alone.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bvjax import weights
from bvjax.config import MAX_WIDTH, ModelConfig
from bvjax.conversion import formats
from bvjax.conversion.tables import TensorSpec
from bvjax.errors import UserError
from bvjax.plain_text import listed
from bvjax.train.task import Params

TARGETS = r"blocks\.\d+\.(self_attn|cross_attn)\.[qkvo]|blocks\.\d+\.ffn\.[02]"
Factors = dict[
    str, dict[str, Float[Array, "layers a b"]]
]  # by leaf: down [n, r, in], up [n, out, r]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """The section `lora`: with a rank of 0 the DiT itself is trained."""

    rank: int = 0
    alpha: float = 0.0  # the sum is scaled by alpha / rank; 0: alpha is the rank
    # Regular expression of all of a module's name, in Wan's names (blocks.0.self_attn.q) or those of diffusers
    # (blocks.0.attn1.to_q).
    targets: str = TARGETS

    def __post_init__(self):
        if not 0 <= self.rank <= MAX_WIDTH:
            raise UserError(f"lora.rank is {self.rank}; it must be 0 (none) to {MAX_WIDTH}")
        if not 0.0 <= self.alpha < math.inf:
            raise UserError(f"lora.alpha is {self.alpha}; it must be 0 (the rank) or more")
        try:
            re.compile(self.targets)
        except re.error as error:
            raise UserError(
                f"lora.targets is {self.targets!r}, which is no regular expression: {error}"
            ) from None

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return (self.alpha or self.rank) / self.rank


class Module(NamedTuple):
    """A weight of the DiT in one layer, by its names."""

    wan: str
    diffusers: str
    spec: TensorSpec  # of the weight


@dataclasses.dataclass(frozen=True)
class Target:
    """A leaf of the DiT's parameters, with the modules of it that are changed."""

    leaf: str
    layers: tuple[int, ...] | None  # None: the leaf has no layers
    modules: tuple[Module, ...]

    @property
    def key(self) -> str:
        """The name of its factors: no name of a leaf, so that they are not sharded as one."""
        return self.leaf.replace("/", ".")

    @property
    def matrix(self) -> tuple[int, int]:
        """(out, in): a convolution's axes behind the first are one."""
        out, *rest = self.modules[0].spec.external_shape
        return out, math.prod(rest)


def find_targets(model: ModelConfig, config: LoraConfig) -> tuple[Target, ...]:
    """The leaves that `config.targets` names; raises `UserError` where it names none."""
    pattern, names = re.compile(config.targets), []
    found: dict[str, list[tuple[int | None, Module]]] = {}
    shapes = weights.flatten(weights.shapes(model, "dit"))
    places = weights.disk_names(shapes)
    both = zip(
        formats.specs(model, "dit", "wan"), formats.specs(model, "dit", "diffusers"), strict=True
    )
    for spec, other in both:
        wan, _, kind = spec.external_name.rpartition(".")
        if kind != "weight" or len(spec.external_shape) < 2:
            continue
        module = Module(wan, other.external_name.removesuffix(".weight"), spec)
        names.append(wan)
        if pattern.fullmatch(module.wan) or pattern.fullmatch(module.diffusers):
            leaf, layer = places[spec.name]
            found.setdefault(leaf, []).append((layer, module))
    if not found:
        raise UserError(
            f"lora.targets is {config.targets!r}, which is the whole name of no module; there are {listed(names)}"
        )
    return tuple(
        Target(
            leaf,
            None if pairs[0][0] is None else tuple(i for i, _ in pairs if i is not None),
            tuple(module for _, module in pairs),
        )
        for leaf, pairs in found.items()
    )


def init_factors(targets: tuple[Target, ...], rank: int, key: jax.Array) -> Factors:
    """`down` uniform within 1 / sqrt(in), as PEFT begins, and `up` zero: the DiT is what it was."""
    factors = {}
    for number, target in enumerate(targets):
        out, width = target.matrix
        if rank > min(out, width):
            raise UserError(
                f"lora.rank is {rank}; {target.modules[0].wan} is {out} x {width}, so it can be 1 to {min(out, width)}"
            )
        count, bound = len(target.modules), 1.0 / math.sqrt(width)
        draw = jax.random.uniform(
            jax.random.fold_in(key, number), (count, rank, width), jnp.float32, -bound, bound
        )
        factors[target.key] = {"down": draw, "up": jnp.zeros((count, out, rank), jnp.float32)}
    return factors


def merge(
    base: Params, factors: Mapping[str, Any], targets: tuple[Target, ...], scale: float
) -> Params:
    """W + scale up down; differentiable in `factors`."""
    flat = weights.flatten(base)
    for target in targets:
        down, up = factors[target.key]["down"], factors[target.key]["up"]
        product = jnp.einsum("nor,nrw->now", up, down, precision="highest") * scale
        spec = target.modules[0].spec
        change = product.reshape(len(product), *spec.external_shape)
        if spec.axes is not None:
            change = change.transpose(0, *(1 + axis for axis in spec.axes))
        change = change.reshape(len(product), *spec.shape)
        leaf = flat[target.leaf]
        if target.layers is None:
            flat[target.leaf] = leaf + change[0].astype(leaf.dtype)
        elif len(target.layers) == len(leaf):
            flat[target.leaf] = leaf + change.astype(leaf.dtype)
        else:
            flat[target.leaf] = leaf.at[jnp.array(target.layers)].add(change.astype(leaf.dtype))
    return flax.traverse_util.unflatten_dict(flat, sep="/")

"""AdamW with the paper's stepwise decay (section 5.1), or Muon; warm-up and gradient clipping."""

from __future__ import annotations

import dataclasses
import itertools
import re

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from bvjax.errors import UserError

KINDS = ("adamw", "muon")
SCHEDULES = ("stepwise", "cosine")
MUON_RMS = 0.2  # of an orthogonalised update, about that of Adam's: one rate then fits both
MUON_OTHERS = 0.2  # rate of the parameters that are no matrices, as a share of the matrices'
_NO_DECAY = re.compile(r"bias|norm|gamma|scale|modulation")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Defaults are the paper's: AdamW, 1e-4 then 5e-5, weight decay 1e-4."""

    kind: str = "adamw"  # adamw | muon: a small network learns from fewer steps with muon
    lr: float = 1e-4
    schedule: str = "stepwise"  # stepwise | cosine
    warmup_steps: int = 0
    milestones: tuple[float, ...] = (0.5,)  # stepwise: fractions of the run at which the rate drops
    factors: tuple[float, ...] = (0.5,)  # stepwise: what `lr` is multiplied with from there on
    final_factor: float = 0.0  # cosine: rate at the end, as a share of `lr`
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 1e-4
    clip: float = 1.0  # global gradient norm

    def __post_init__(self):
        for name, legal in (("kind", KINDS), ("schedule", SCHEDULES)):
            value = getattr(self, name)
            if value not in legal:
                raise UserError(f"optimizer.{name} is {value!r}; it can be {' or '.join(legal)}")
        ascend = all(a < b for a, b in itertools.pairwise(self.milestones))
        fit = ascend and len(self.milestones) == len(self.factors)
        if self.schedule == "stepwise" and not fit:
            raise UserError(
                f"optimizer.milestones {self.milestones} must ascend and be as many as "
                f"optimizer.factors {self.factors}"
            )


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Step -> learning rate of a schedule of `steps` updates; behind its end it stays what it is there."""
    after_warmup = max(steps - config.warmup_steps, 1)
    if config.schedule == "cosine":
        main = optax.cosine_decay_schedule(config.lr, after_warmup, alpha=config.final_factor)
    else:
        drops = [round(milestone * steps) for milestone in config.milestones]
        rates = [optax.constant_schedule(config.lr * f) for f in (1.0, *config.factors)]
        main = optax.join_schedules(rates, [max(drop - config.warmup_steps, 0) for drop in drops])
    if not config.warmup_steps:
        return main
    warmup = optax.linear_schedule(
        config.lr / config.warmup_steps, config.lr, config.warmup_steps - 1
    )
    return optax.join_schedules([warmup, main], [config.warmup_steps])


def decay_mask(params):
    """True where weight decay applies: matrices, kernels and embeddings.

    Layers stacked under "blocks" carry one more leading axis, which does not count.
    """

    def decays(path, leaf):
        names = [str(getattr(entry, "key", entry)) for entry in path]
        ndim = leaf.ndim - ("blocks" in names)
        return ndim >= 2 and not _NO_DECAY.search(names[-1])

    return jax.tree_util.tree_map_with_path(decays, params)


def matrix_axes(params):
    """For Muon: kernels are matrices of all inputs to all outputs, one per stacked layer; None elsewhere."""

    def axes(path, leaf):
        names = [str(getattr(entry, "key", entry)) for entry in path]
        stacked = int("blocks" in names)
        if names[-1] != "kernel" or leaf.ndim - stacked < 2:
            return None
        return MuonDimensionNumbers(tuple(range(stacked, leaf.ndim - 1)), leaf.ndim - 1)

    return jax.tree_util.tree_map_with_path(axes, params)


def frozen_mask(params, frozen: tuple[str, ...]):
    """True for everything under the top-level modules named in `frozen`."""
    return {
        name: jax.tree.map(lambda _, still=name in frozen: still, part)
        for name, part in params.items()
    }


def make_optimizer(
    config: OptimizerConfig, schedule: optax.Schedule, frozen: tuple[str, ...] = ()
) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW or Muon at the rates of `schedule`; `frozen` modules stay as they are.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) orthogonalises the momentum of
    kernels; all other parameters get AdamW with Nesterov momentum.
    """
    if config.kind == "adamw":
        update = optax.adamw(
            schedule,
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=decay_mask,
        )
    else:
        update = muon(
            schedule,
            eps=config.eps,
            weight_decay=config.weight_decay,
            adam_learning_rate=lambda step: MUON_OTHERS * schedule(step),
            adam_b1=config.b1,
            adam_b2=config.b2,
            muon_weight_dimension_numbers=matrix_axes,
            consistent_rms=MUON_RMS,
        )
    parts = [optax.clip_by_global_norm(config.clip), update]
    if frozen:  # last, so that weight decay does not reach them either
        parts.append(optax.masked(optax.set_to_zero(), lambda params: frozen_mask(params, frozen)))
    return optax.chain(*parts)

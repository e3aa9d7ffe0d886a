"""AdamW with the paper's stepwise decay (section 5.1), or Muon; warm-up and gradient clipping."""

from __future__ import annotations

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Milestones:
    """The steps of a schedule: absolute, so that a longer run does not move them."""

    drops: tuple[int, ...]  # stepwise: where the rate drops
    end: int  # updates that the schedule was made for; cosine: where its last rate is reached


def milestones(cfg: OptimizerConfig, steps: int) -> Milestones:
    """Where the rate changes in a run that is begun for `steps` updates."""
    return Milestones(tuple(round(m * steps) for m in cfg.milestones), steps)


def learning_rate(cfg: OptimizerConfig, steps: int) -> optax.Schedule:
    """Step -> learning rate for a run that is begun for `steps` updates; raises as `scheduled_rate`."""
    return scheduled_rate(cfg, milestones(cfg, steps))


def scheduled_rate(cfg: OptimizerConfig, at: Milestones) -> optax.Schedule:
    """Step -> learning rate; behind the end of the schedule it stays what it is there.

    Raises:
        UserError: unknown schedule, or milestones that do not fit the factors.
    """
    if cfg.schedule not in SCHEDULES:
        raise UserError(
            f"optimizer.schedule is {cfg.schedule!r}; it can be {' or '.join(SCHEDULES)}"
        )
    after_warmup = max(at.end - cfg.warmup_steps, 1)
    if cfg.schedule == "cosine":
        main = optax.cosine_decay_schedule(cfg.lr, after_warmup, alpha=cfg.final_factor)
    else:
        ordered = all(a < b for a, b in zip(cfg.milestones, cfg.milestones[1:], strict=False))
        if len(cfg.milestones) != len(cfg.factors) or not ordered:
            raise UserError(
                f"optimizer.milestones {tuple(cfg.milestones)} must ascend and be as many as "
                f"optimizer.factors {tuple(cfg.factors)}"
            )
        if len(at.drops) != len(cfg.factors) or list(at.drops) != sorted(at.drops):
            raise UserError(
                f"the run's rate drops at steps {at.drops}; they must ascend and be as many as "
                f"optimizer.factors {tuple(cfg.factors)}"
            )
        rates = [optax.constant_schedule(cfg.lr * f) for f in (1.0, *cfg.factors)]
        bounds = [max(drop - cfg.warmup_steps, 0) for drop in at.drops]
        main = optax.join_schedules(rates, bounds)
    if not cfg.warmup_steps:
        return main
    warmup = optax.linear_schedule(cfg.lr / cfg.warmup_steps, cfg.lr, cfg.warmup_steps - 1)
    return optax.join_schedules([warmup, main], [cfg.warmup_steps])


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
    cfg: OptimizerConfig, schedule: optax.Schedule, frozen: tuple[str, ...] = ()
) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW or Muon at the rates of `schedule`; `frozen` modules stay as they are.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) orthogonalises the momentum of
    kernels; all other parameters get AdamW with Nesterov momentum.

    Raises:
        UserError: unknown kind.
    """
    if cfg.kind == "adamw":
        update = optax.adamw(
            schedule,
            b1=cfg.b1,
            b2=cfg.b2,
            eps=cfg.eps,
            weight_decay=cfg.weight_decay,
            mask=decay_mask,
        )
    elif cfg.kind == "muon":
        update = muon(
            schedule,
            eps=cfg.eps,
            weight_decay=cfg.weight_decay,
            adam_learning_rate=lambda step: MUON_OTHERS * schedule(step),
            adam_b1=cfg.b1,
            adam_b2=cfg.b2,
            muon_weight_dimension_numbers=matrix_axes,
            consistent_rms=MUON_RMS,
        )
    else:
        raise UserError(f"optimizer.kind is {cfg.kind!r}; it can be {' or '.join(KINDS)}")
    parts = [optax.clip_by_global_norm(cfg.clip), update]
    if frozen:  # last, so that weight decay does not reach them either
        parts.append(optax.masked(optax.set_to_zero(), lambda params: frozen_mask(params, frozen)))
    return optax.chain(*parts)

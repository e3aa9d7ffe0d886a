"""Stages of training: the samplers that a checkpoint allows, and what to expect of it.

The stage says what weights were trained on and by which losses.  Whether they leap to clean latents in a few steps is
a property of the sampler that they were trained with (`sampler` beside `stage` in a weights folder's config.json):
Self Forcing, stage 2, trains a few-step generator, but stage 2 by Block Forcing alone does not.
"""

from __future__ import annotations

from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.memory.rules import rule_of

STAGES = ("pretrained", "stage1", "stage2", "few-step")


def check_sampler(stage: str | None, kind: str, trained_with: str | None = None) -> None:
    """Raises `UserError` when `sampler.kind` cannot sample weights of this stage; None is unknown.

    A few-step model leaps to clean latents from three or four levels and never learned the velocity
    between them; any other was never taught to leap.

    Args:
        stage: of `STAGES`; few-step are distilled weights of which no more is known.
        kind: the sampler's.
        trained_with: the kind of sampler that the weights were trained with, where it was recorded.
    """
    if stage not in (None, *STAGES):
        raise UserError(f"the stage of these weights is {stage!r}; it can be {', '.join(STAGES)}")
    if trained_with is None and stage is None:
        return
    few = trained_with == "few_step" if trained_with else stage == "few-step"
    if few and kind != "few_step":
        of = "of stage few-step" if stage == "few-step" else "trained with sampler few_step"
        raise UserError(f"these weights are {of}: sampler.kind must be few_step, not {kind}")
    if not few and kind == "few_step":
        raise UserError(
            f"these weights are of stage {stage}: sampler.kind few_step is for few-step weights; "
            "use unipc or euler"
        )


def memory_warning(stage: str | None, model: ModelConfig) -> str | None:
    """A warning for weights with a memory that they were never trained for; None if it does not apply.

    Pretrained weights have only seen windows all of whose frames were equally noisy.  The clean keys
    of earlier chunks are new to them, and nothing taught them what to take from there.
    """
    retrieval = model.retrieval
    remembers = rule_of(retrieval.kind).looks_back and (
        retrieval.num_recent or retrieval.num_retrieved
    )
    if stage != "pretrained" or not (remembers or model.memory.anchor):
        return None
    return (
        "these weights are of stage pretrained: they were never trained with a memory of earlier "
        "chunks. Expect seams between chunks, colours and subjects that drift, and no reliable return "
        "of what was shown; training of stage1 teaches it. Without memory (memory.anchor=false and "
        "retrieval.kind=none) each chunk is a video of its own"
    )

"""What its training made a checkpoint, and which samplers that allows."""

from __future__ import annotations

from bvjax.errors import UserError

STAGES = ("pretrained", "stage1", "stage2", "few-step")


def check_sampler(stage: str | None, kind: str) -> None:
    """Raises `UserError` when `sampler.kind` cannot sample weights of this stage; None is unknown.

    A few-step model leaps to clean latents from three or four levels and never learned the velocity
    between them; any other was never taught to leap.
    """
    if stage is None:
        return
    if stage not in STAGES:
        raise UserError(f"the stage of these weights is {stage!r}; it can be {', '.join(STAGES)}")
    if stage == "few-step" and kind != "few_step":
        raise UserError(
            f"these weights are of stage few-step: sampler.kind must be few_step, not {kind}"
        )
    if stage != "few-step" and kind == "few_step":
        raise UserError(
            f"these weights are of stage {stage}: sampler.kind few_step is for few-step weights; "
            "use unipc or euler"
        )

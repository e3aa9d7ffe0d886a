"""How long a run is and where its learning rate changes: decided when it begins, kept in its checkpoints."""

from __future__ import annotations

import dataclasses
from typing import Any

from bvjax.errors import UserError
from bvjax.train.optimizer import Milestones, OptimizerConfig, milestones, scheduled_rate


@dataclasses.dataclass(frozen=True)
class Plan:
    """Updates of a run, and the steps of its schedule, which stay where they are when a run is extended."""

    steps: int
    milestones: Milestones

    @staticmethod
    def parse(content: Any) -> Plan:
        """The plan that `dataclasses.asdict` made JSON of; raises `UserError` for anything else."""
        legal = isinstance(content, dict) and set(content) == {"steps", "milestones"}
        if not legal or type(content["steps"]) is not int or content["steps"] < 1:
            raise UserError("its plan is not {steps, milestones}")
        inner = content["milestones"]
        legal = isinstance(inner, dict) and set(inner) == {"drops", "end"}
        if not legal or not isinstance(inner["drops"], list):
            raise UserError("the milestones of its plan are not {drops, end}")
        if any(type(step) is not int or step < 0 for step in (*inner["drops"], inner["end"])):
            raise UserError("the milestones of its plan are not steps")
        return Plan(content["steps"], Milestones(tuple(inner["drops"]), inner["end"]))


def new_plan(optimizer: OptimizerConfig, steps: int) -> Plan:
    """The plan of a run that begins."""
    return Plan(steps, milestones(optimizer, steps))


def go_on(
    optimizer: OptimizerConfig, steps: int, done: int, plan: Plan, extend: bool
) -> tuple[Plan, str | None]:
    """The plan of a run that is started again for `steps` updates, and what that changes if anything.

    Args:
        done: updates that the run has made.
        plan: the one it was made by so far.
        extend: whether another number of updates is wanted; the schedule keeps its steps.

    Raises:
        UserError: `steps` is another number without `extend`, fewer than `done`, or more than a schedule
            that ends at zero can use.
    """
    if steps < done:
        raise UserError(
            f"train.steps is {steps}, but this run has made {done} updates already; "
            f"it can be {max(done, plan.steps)}, or more with `extend`"
        )
    if steps == plan.steps:
        return plan, None
    end = plan.milestones.end
    rate = float(scheduled_rate(optimizer, plan.milestones)(steps - 1))
    if steps > end and rate == 0.0:
        raise UserError(
            f"train.steps is {steps}, but the learning rate of this run is 0 after {end} updates; "
            f"set train.steps={plan.steps}, or begin a run with `init_from`"
        )
    if steps > end:
        does = f"the learning rate stays at {rate:.3g}, where its schedule of {end} updates ends"
    else:
        does = (
            f"the learning rate follows its schedule of {end} updates and is {rate:.3g} at the last"
        )
    if not extend:
        raise UserError(
            f"train.steps is {steps}, but this run was begun with {plan.steps}; "
            f"with `extend` it makes {steps}: {does}"
        )
    return dataclasses.replace(
        plan, steps=steps
    ), f"{steps} updates instead of {plan.steps}: {does}"

"""The length of a run and the steps at which its learning rates change: decided when it begins, kept in its checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import optax

from bvjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Plan:
    """Steps of a run, and of its schedules, whose changes stay where they are when the run is extended."""

    steps: int
    schedule_end: int

    @staticmethod
    def parse(content: Any) -> Plan:
        """The plan that `dataclasses.asdict` made JSON of; raises `UserError` for anything else.

        Older ones have milestones {drops, end} instead of the end; the drops follow from the config and the end.
        """
        if isinstance(content, dict) and isinstance(content.get("milestones"), dict):
            content = {"schedule_end": content["milestones"].get("end"), **content}
            del content["milestones"]
        if not isinstance(content, dict) or set(content) != {"steps", "schedule_end"}:
            raise UserError("its plan is not {steps, schedule_end}")
        if any(type(value) is not int or value < 1 for value in content.values()):
            raise UserError("the numbers of its plan are not steps")
        return Plan(**content)


def new_plan(steps: int) -> Plan:
    """The plan of a run that begins."""
    return Plan(steps, steps)


def go_on(
    rates_of: Callable[[int], Mapping[str, optax.Schedule]],
    steps: int,
    done: int,
    plan: Plan,
    extend: bool,
) -> tuple[Plan, str | None]:
    """The plan of a run that is started again for `steps` steps, and what that changes if anything.

    Args:
        rates_of: the learning rates by name of schedules of so many steps.
        steps: of the whole run, as it is started now.
        done: steps that the run has made.
        plan: the one it was made by so far.
        extend: whether another number of steps is wanted; the schedules keep their end.

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
    end = plan.schedule_end
    rates = {name: float(rate(steps - 1)) for name, rate in rates_of(end).items()}
    silent = [name for name, rate in rates.items() if rate == 0.0]
    if steps > end and silent:
        raise UserError(
            f"train.steps is {steps}, but the {silent[0]} of this run is 0 after {end} updates; "
            f"set train.steps={plan.steps}, or begin a run with `init_from`"
        )
    if steps > end:
        does = " and ".join(f"the {name} stays at {rate:.3g}" for name, rate in rates.items())
        does += f", where its schedule of {end} updates ends"
    else:
        does = " and ".join(
            f"the {name} follows its schedule of {end} updates and is {rate:.3g} at the last"
            for name, rate in rates.items()
        )
    if not extend:
        raise UserError(
            f"train.steps is {steps}, but this run was begun with {plan.steps}; "
            f"with `extend` it makes {steps}: {does}"
        )
    changed = dataclasses.replace(plan, steps=steps)
    return changed, f"{steps} updates instead of {plan.steps}: {does}"

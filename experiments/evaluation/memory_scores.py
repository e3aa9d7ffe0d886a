"""Summaries of the records of protocols (a) and (b)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bvjax.lvbench.intervals import difference, mean, rate
from experiments.evaluation.cases import CHANCE, Case

SPLITS: dict[str, Callable[[Case], bool]] = {
    "all": lambda case: True,
    "same species beside": lambda case: case.distractor,
    "no such other": lambda case: not case.distractor,
    "unseen pair": lambda case: case.unseen,
    "seen pair": lambda case: not case.unseen,
}


def recalled(case: Case, record: Mapping[str, Any]) -> bool:
    """A hit: species and colour right, or the place."""
    return all(record["right"][head] for head in case.truth)


def arm_scores(
    cases: Iterable[Case], records: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Recall and retrieval hit rate of one arm, for subjects (with splits) and for places.

    Args:
        records: by case key; cases without one do not count.
    """
    evaluated = [case for case in cases if case.key in records]
    subjects = [case for case in evaluated if case.kind == "subject"]
    places = [case for case in evaluated if case.kind == "place"]

    def share(subset: Iterable[Case], test: Callable[[Case], bool]) -> dict[str, Any]:
        return rate([test(case) for case in subset])

    def right(head: str) -> Callable[[Case], bool]:
        return lambda case: records[case.key]["right"][head]

    def is_recalled(case: Case) -> bool:
        return recalled(case, records[case.key])

    def hits(subset: list[Case]) -> dict[str, Any]:
        looked_up = (
            records[case.key]["hit"] for case in subset
        )  # None where nothing was retrieved
        return rate([hit for hit in looked_up if hit is not None])

    return {
        "subject": {
            "recall": {
                split: share(filter(belongs, subjects), is_recalled)
                for split, belongs in SPLITS.items()
            },
            "species": share(subjects, right("species")),
            "colour": share(subjects, right("colour")),
            "retrieval hit": hits(subjects),
            "chance": CHANCE["both"],
        },
        "place": {
            "recall": share(places, is_recalled),
            "retrieval hit": hits(places),
            "chance": CHANCE["place"],
        },
    }


def lead(
    cases: Iterable[Case],
    first: Mapping[str, Mapping[str, Any]],
    second: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Returns how much more of the subject cases one arm recalls than another, on those both have."""
    shared = [c for c in cases if c.kind == "subject" and c.key in first and c.key in second]
    return difference(
        [float(recalled(c, first[c.key])) for c in shared],
        [float(recalled(c, second[c.key])) for c in shared],
    )


def summary(cases: list[Case], records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """{arms: {arm: scores}, lead over rolling} of protocol (a) from {case: {arm: record}}."""
    arms = dict.fromkeys(arm for record in records.values() for arm in record)
    by_arm = {
        arm: {key: record[arm] for key, record in records.items() if arm in record} for arm in arms
    }
    result: dict[str, Any] = {
        "arms": {
            arm: {
                **arm_scores(cases, by_case),
                "sharpness": mean([record["sharpness"] for record in by_case.values()]),
            }
            for arm, by_case in by_arm.items()
        }
    }
    if {"semantic", "rolling"} <= set(by_arm):
        result["semantic - rolling"] = lead(cases, by_arm["semantic"], by_arm["rolling"])
    return result

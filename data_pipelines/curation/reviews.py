"""Verdicts of reviewers: a file of lines for each, only ever added to, so that nothing is lost when anything is killed.

    ROOT/review/REVIEWER.jsonl    {"id", "verdict", "reason", "caption", "was"} or {"undo": true} a line

`was` is the caption that the reviewer saw: a verdict on another one counts for nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bvjax.errors import UserError
from bvjax.files import parse_json
from data_pipelines.curation.captions import accept_caption

FOLDER = "review"
VERDICTS = ("accept", "reject")
REASONS = (
    "a cut inside",
    "wrong caption",
    "bad picture",
    "nothing happens",
    "text or logo",
    "other",
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")


@dataclasses.dataclass(frozen=True)
class Decision:
    """One reviewer's last word on a chunk. caption: as edited, or as it was."""

    id: str
    verdict: str
    reason: str
    caption: str
    was: str


def check_reviewer(name: Any) -> str:
    """The name, if it can be one; raises `UserError`."""
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise UserError("a reviewer's name is of letters, digits, '.', '_' and '-', 40 at most")
    return name


def decision_of(content: Any) -> Decision:
    """A decision in decoded JSON; raises `UserError`."""
    if not isinstance(content, Mapping):
        raise UserError("a decision is an object")
    values = {key: content.get(key, "") for key in ("id", "verdict", "reason", "caption", "was")}
    if not all(isinstance(value, str) for value in values.values()) or not values["id"]:
        raise UserError("a decision has id, verdict, reason, caption and was, which are text")
    if values["verdict"] not in VERDICTS:
        raise UserError(f"the verdict is {values['verdict']!r}; it can be {' or '.join(VERDICTS)}")
    if values["verdict"] == "reject" and not values["reason"].strip():
        raise UserError("a rejection needs a reason")
    values["reason"] = " ".join(values["reason"].split())[:200]
    values["caption"] = accept_caption(values["caption"])
    return Decision(**values)


class Reviews:
    """The decisions in a folder, by reviewer and chunk. Several threads may use it; several servers may not."""

    def __init__(self, root: Path):
        """Reads what is there; a torn last line is cut off, damaged lines are left out."""
        self._folder, self._lock = root / FOLDER, threading.Lock()
        self._histories: dict[str, list[Decision]] = {}
        for path in sorted(self._folder.glob("*.jsonl")):
            if _NAME.fullmatch(path.stem):
                self._histories[path.stem] = _history(path)

    @property
    def reviewers(self) -> list[str]:
        return sorted(name for name, history in self._histories.items() if history)

    def of(self, reviewer: str) -> dict[str, Decision]:
        """A reviewer's last decision on each chunk."""
        with self._lock:
            return {decision.id: decision for decision in self._histories.get(reviewer, ())}

    def all(self) -> dict[str, dict[str, Decision]]:
        """{chunk: {reviewer: decision}}."""
        found: dict[str, dict[str, Decision]] = {}
        for reviewer in self.reviewers:
            for chunk, decision in self.of(reviewer).items():
                found.setdefault(chunk, {})[reviewer] = decision
        return found

    def add(self, reviewer: str, decision: Decision) -> None:
        """Writes a decision, on the disk when this returns; raises `UserError`, `OSError`."""
        self._append(check_reviewer(reviewer), dataclasses.asdict(decision))
        with self._lock:
            self._histories.setdefault(reviewer, []).append(decision)

    def undo(self, reviewer: str) -> str | None:
        """Takes back a reviewer's last decision; returns its chunk, None where there is none."""
        with self._lock:
            history = self._histories.get(check_reviewer(reviewer))
            if not history:
                return None
        self._append(reviewer, {"undo": True})
        with self._lock:
            return history.pop().id

    def _append(self, reviewer: str, content: dict[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        line = json.dumps(content).encode() + b"\n"
        with self._lock, open(self._folder / f"{reviewer}.jsonl", "ab+") as file:
            size = file.seek(0, os.SEEK_END)
            if size:  # a line that was torn by a kill is ended, and read as damaged
                file.seek(size - 1)
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def _history(path: Path) -> list[Decision]:
    history: list[Decision] = []
    for line in path.read_bytes().split(b"\n"):
        try:
            content = parse_json(line, "the line") if line.strip() else None
            if isinstance(content, dict) and content.get("undo") is True:
                del history[-1:]
            elif content is not None:
                history.append(decision_of(content))
        except UserError:
            continue
    return history


def decisions_in(root: Path) -> dict[str, dict[str, Decision]]:
    """`Reviews(root).all()`, read once unless a file changes: it is asked for once a film."""
    states = sorted(
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in (root / FOLDER).glob("*.jsonl")
    )
    return _decisions(root, tuple(states))


@functools.lru_cache(maxsize=1)
def _decisions(root: Path, states: tuple) -> dict[str, dict[str, Decision]]:
    return Reviews(root).all()


# ---- agreement --------------------------------------------------------------------------------------
def agreement(decisions: Mapping[str, Mapping[str, Decision]]) -> dict[str, Any]:
    """Kappas of all reviewers, as JSON: Cohen's of each pair over the chunks that both judged, Fleiss' over those that
    equally many judged (the number that most chunks have, two at least); None where it is not defined."""
    names = sorted({name for of in decisions.values() for name in of})
    pairs = []
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            both = [of for of in decisions.values() if first in of and second in of]
            kappa = cohen([of[first].verdict for of in both], [of[second].verdict for of in both])
            pairs.append({"reviewers": [first, second], "chunks": len(both), "cohen": kappa})
    sizes = [len(of) for of in decisions.values() if len(of) > 1]
    raters = max(sorted(set(sizes)), key=sizes.count) if sizes else 0
    counts = [
        [sum(d.verdict == v for d in of.values()) for v in VERDICTS]
        for of in decisions.values()
        if len(of) == raters
    ]
    kappa = fleiss(counts) if raters else None
    return {
        "pairs": pairs,
        "fleiss": kappa,
        "fleiss reviewers": raters,
        "fleiss chunks": len(counts) if raters else 0,
    }


def cohen(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Cohen's kappa (1960), (p_o - p_e) / (1 - p_e); None without items or where chance alone agrees always."""
    if not first:
        return None
    kinds = sorted({*first, *second})
    table = np.zeros((len(kinds), len(kinds)))
    for a, b in zip(first, second, strict=True):
        table[kinds.index(a), kinds.index(b)] += 1
    table /= table.sum()
    expected = float(table.sum(0) @ table.sum(1))
    return None if expected > 1 - 1e-12 else float((np.trace(table) - expected) / (1 - expected))


def fleiss(counts: Iterable[Sequence[int]]) -> float | None:
    """Fleiss' kappa (1971) of counts [item, kind], n of them an item; None where it is not defined."""
    table = np.array(list(counts), np.float64)
    if not table.size:
        return None
    n = table[0].sum()
    if n < 2:
        return None
    agreed = ((table**2).sum(1) - n) / (n * (n - 1))
    expected = float(((table.sum(0) / table.sum()) ** 2).sum())
    return None if expected > 1 - 1e-12 else float((agreed.mean() - expected) / (1 - expected))

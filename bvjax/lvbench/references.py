"""Reference VDEs of videos that people can picture, and a line that compares results with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bvjax.lvbench.formatting import ordered

# VDE of suite paper with its defaults (10 chunks, linear weights), from docs/lvbench.md: a street
# filmed for 80 s by a camera that does not move, and six minutes of stories by the model that ships.
STREET_VDE = {
    "paper/subject": 3.84,
    "paper/background": 0.219,
    "paper/background_compensated": 0.218,
    "paper/motion": 9.83,
    "paper/motion_smoothness": 0.0311,
    "paper/aesthetic": 0.0969,
    "paper/clarity": 0.684,
}
SHIPPED_VDE = {
    "paper/subject": 19.6,
    "paper/background": 12.3,
    "paper/background_compensated": 11.0,
    "paper/motion": 8.09,
    "paper/motion_smoothness": 0.150,
    "paper/aesthetic": 3.34,
    "paper/clarity": 16.7,
}
# Settings with which these were measured; others give other numbers.
_REFERENCE_SETTINGS = {
    "segments": 10,
    "weights": "linear",
    "flow": "dis",
    "static": 1.0,
    "subject": "histogram",
    "aesthetic": "handmade",
}


def interpretation(results: Mapping[str, Any]) -> list[str]:
    """Returns a line that rates the VDEs against the references; [] for metrics without any."""
    config, metrics = results["config"], ordered(results["metrics"])
    referenced = [m for m in metrics if m in STREET_VDE]
    if not referenced:
        return []
    if any(config.get(key, value) != value for key, value in _REFERENCE_SETTINGS.items()):
        return ["Is that good? 0 is no drift; docs/lvbench.md has values for the default settings."]
    titles_by_verdict: dict[str, list[str]] = {}
    for metric in referenced:
        value = results["aggregate"][metric]["vde"]["mean"]
        if value is not None:
            low, high = sorted((STREET_VDE[metric], SHIPPED_VDE[metric]))
            verdict = "good" if value <= low else "middling" if value <= high else "high"
            titles_by_verdict.setdefault(verdict, []).append(results["metrics"][metric]["title"])
    if not titles_by_verdict:
        return []
    clauses = [
        f"{p}: {', '.join(titles_by_verdict[p])}"
        for p in ("good", "middling", "high")
        if p in titles_by_verdict
    ]
    return [
        f"Is that good? {'; '.join(clauses)}. (A street filmed by a fixed camera and the minutes of "
        "the model that ships: good is no more than either, high is more than both; docs/lvbench.md. "
        "Cuts and scripted changes are drift too: compare like with like.)"
    ]

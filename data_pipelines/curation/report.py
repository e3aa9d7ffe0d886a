"""Fate of the films, stage by stage: report.json and a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bvjax.files import write_json
from data_pipelines.curation.captions import tokens_of
from data_pipelines.curation.reviews import Reviews, agreement
from data_pipelines.curation.rows import Row, is_kept
from data_pipelines.curation.settings import Captions

REPORT = "report.json"


def build(
    root: Path,
    stages: Sequence[Mapping[str, Any]],
    films: Mapping[str, list[Row]],
    captions: Captions,
) -> dict[str, Any]:
    """The report, written to ROOT/report.json as well.

    Seconds of the source and of what is left, tokens and their cost at the prices of the settings, agreement of
    reviewers, and the counts of each stage.
    """
    rows = [row for of in films.values() for row in of]
    kept = [row for row in rows if is_kept(row)]
    tokens = tokens_of([])
    for row in rows:
        for key, count in row.get("tokens", {}).items():
            tokens[key] += count
    cost = (tokens["input"] * captions.input_price + tokens["output"] * captions.output_price) / 1e6
    report = {
        "films": len(films),
        "takes": len([row for row in kept if "start" in row]),
        "chunks": sum(len(row.get("chunks", ())) for row in kept),
        "seconds": round(sum(_seconds(row) for row in kept), 2),
        "stages": list(stages),
        "tokens": {**tokens, "cost": round(cost, 4)},
        "review": agreement(Reviews(root).all()),
    }
    write_json(root / REPORT, report)
    return report


def _seconds(row: Row) -> float:
    if row.get("chunks"):
        return (row["chunks"][-1]["stop"] - row["chunks"][0]["start"]) / row["rate"]
    return row["stop"] - row["start"] if "start" in row else row.get("seconds", 0.0)


def table(report: Mapping[str, Any]) -> list[str]:
    """Lines of text: a row for each stage, and the reasons for which it dropped."""
    lines = [f"{'stage':<11}{'done':>6}{'kept':>7}{'dropped':>9}{'seconds':>10}"]
    for stage in report["stages"]:
        lines.append(
            f"{stage['stage']:<11}{stage['films']:>6}{stage['kept']:>7}{stage['dropped']:>9}{stage['seconds']:>10.1f}"
        )
        lines += [f"{'':<11}{count:>6} x {why}" for why, count in stage["why"].items()]
    lines.append(
        f"{report['films']} films, {report['takes']} takes, {report['chunks']} chunks, {report['seconds']:.0f} s"
    )
    return lines

"""The stage of human review: takes without the chunks that reviewers rejected, with the captions that they wrote."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bvjax.overrides import to_dict
from data_pipelines.curation.chunks import split_take
from data_pipelines.curation.reviews import Decision, decisions_in
from data_pipelines.curation.rows import Row, is_kept
from data_pipelines.curation.settings import Review, Settings


def apply(rows: list[Row], settings: Settings, root: Path) -> list[Row]:
    """Applies the decisions on the captions as they are now; adds `reviewers` to chunks that have any."""
    decisions = decisions_in(root)
    out: list[Row] = []
    for row in rows:
        if not is_kept(row):
            out.append(row)
            continue
        told, good = [], []
        for chunk in row["chunks"]:
            of = _current(chunk, decisions.get(chunk["id"], {}))
            edited = [d.caption for d in of.values() if d.caption != d.was]
            told.append(
                {
                    **chunk,
                    "caption": edited[-1] if edited else chunk["caption"],
                    "reviewers": len(of),
                }
            )
            good.append(passes(of, settings.review))
        row = {**row, "chunks": told}
        out += split_take(
            row,
            good,
            "review",
            "rejected",
            "reviewers rejected chunks, or have not seen them",
            settings.chunks.least,
        )
    return out


def inputs(rows: list[Row], settings: Settings, root: Path) -> Any:
    """The settings and the decisions on these rows."""
    decisions = decisions_in(root)
    chunks = [chunk["id"] for row in rows if is_kept(row) for chunk in row["chunks"]]
    said = [[dataclasses.asdict(d) for d in decisions.get(chunk, {}).values()] for chunk in chunks]
    return [to_dict(settings.review), settings.chunks.least, said]


def passes(decisions: Mapping[str, Decision], settings: Review) -> bool:
    """Returns whether a chunk may stay."""
    if len(decisions) < settings.reviewers:
        return False
    rejected = sum(decision.verdict == "reject" for decision in decisions.values())
    return not rejected if settings.reject == "any" else 2 * rejected <= len(decisions)


def _current(chunk: Row, decisions: Mapping[str, Decision]) -> dict[str, Decision]:
    """Decisions on the caption that the chunk has, by reviewer; the last edit is the last of the sorted names."""
    return {name: d for name, d in sorted(decisions.items()) if d.was == chunk["caption"]}

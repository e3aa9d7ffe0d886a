"""The dataset card that `curate` writes beside a training set: what is in it, how it came to be, whose it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bvjax.errors import UserError
from bvjax.files import read_json_object, write_atomic
from bvjax.overrides import to_dict
from bvjax.plain_text import shown
from data_pipelines.curation.rows import Row, is_kept
from data_pipelines.curation.settings import Settings

CARD, RIGHTS = "README.md", "rights.json"


def rights_of(videos: Path) -> dict[str, str]:
    """{film: terms} of the folder's rights.json, {} without one; raises `UserError` for what is none.

    A key is a film's name below the folder, or a folder's with a slash at its end, or "" for all others.
    """
    path = videos / RIGHTS
    if not path.exists():
        return {}
    content = read_json_object(path, "the rights")
    if not all(isinstance(terms, str) for terms in content.values()):
        raise UserError(f'the rights {path} must be {{"FILM or FOLDER/": "terms", ...}}')
    return content


def terms(film: str, rights: Mapping[str, str]) -> str:
    """The terms of a film: its own, its nearest folder's, those of all, or that nobody says."""
    keys = [film, *(film[: i + 1] for i in range(len(film) - 1, -1, -1) if film[i] == "/"), ""]
    return next((rights[key] for key in keys if key in rights), "not stated")


def card(
    report: Mapping[str, Any],
    films: Mapping[str, list[Row]],
    settings: Settings,
    rights: Mapping[str, str],
) -> str:
    """The card as Markdown, with the front matter that Hugging Face reads."""
    kept = {name: [row for row in of if is_kept(row)] for name, of in films.items()}
    used = [name for name, of in kept.items() if of]
    lines = [
        "---", "task_categories:", "- text-to-video", "license: other", "---", "",
        "# Long takes with captions", "",
        f"{report['takes']} takes of {len(used)} films (of {report['films']} looked at): {report['chunks']} chunks, "
        f"{report['seconds']:.0f} s. Latents and text states are in `latents/`, for the weights that its "
        "manifest.json names by hash; what was decided about every take, and why, is in `manifest.jsonl`.", "",
        "## How it was made", "",
        "| stage | kept | dropped | why |", "|---|---|---|---|",
    ]  # fmt: skip
    for stage in report["stages"]:
        why = ", ".join(f"{count} {kind}" for kind, count in stage["why"].items())
        lines.append(f"| {stage['stage']} | {stage['kept']} | {stage['dropped']} | {why} |")
    examples = report["stages"][-1].get("examples", {})
    split = ", ".join(f"{count} examples for {side}" for side, count in examples.items())
    described = sorted({row.get("captioned", "") for of in kept.values() for row in of} - {""})
    lines += [
        "", f"Split by film: {split or 'not encoded yet'}.", "",
        f"Captions: {' and '.join(described) or 'none'}"
        + (f", by {shown(settings.captions.model)}" if "model" in described else "")
        + f". Tokens: {report['tokens']['input']} in, {report['tokens']['output']} out.", "",
        f"Review: {_review(report['review'])}", "",
        "Settings:", "", "```json", json.dumps(_public(settings), indent=1), "```", "",
        "## Whose it is", "", "| film | takes | terms |", "|---|---|---|",
    ]  # fmt: skip
    lines += [
        f"| {_cell(name)} | {len(kept[name])} | {_cell(terms(name, rights))} |" for name in used
    ]
    return "\n".join([*lines, ""])


def write_card(
    root: Path,
    videos: Path,
    report: Mapping[str, Any],
    films: Mapping[str, list[Row]],
    settings: Settings,
) -> None:
    """Writes ROOT/README.md; raises `UserError` for a rights.json that is none."""
    text = card(report, films, settings, rights_of(videos))
    write_atomic(root / CARD, text.encode())


def _public(settings: Settings) -> dict[str, Any]:
    """The settings without addresses and paths of the machine."""
    content = to_dict(settings)
    for name in ("endpoint", "file", "key_variable"):
        del content["captions"][name]
    return content


def _review(review: Mapping[str, Any]) -> str:
    pairs = [p for p in review["pairs"] if p["chunks"]]
    if not pairs:
        return "by fewer than two people."
    value = "not defined" if review["fleiss"] is None else f"{review['fleiss']:.2f}"
    return f"Fleiss' kappa {value} over {review['fleiss chunks']} chunks and {review['fleiss reviewers']} reviewers each."


def _cell(text: str) -> str:
    """Text that stays in its cell of a Markdown table."""
    return shown(text).replace("|", "\\|").replace("<", "&lt;")

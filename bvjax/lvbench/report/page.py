"""report.html: one file that shows an evaluation to a person, offline, in any browser.

Everything that comes from outside (names, captions, reasons, versions) is escaped, and the page's
own policy lets a browser run the one script that was put in here and load nothing from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import io
import pathlib
import string
from collections.abc import Mapping, Sequence
from typing import Any

import PIL.Image

import bvjax
from bvjax.lvbench import references
from bvjax.lvbench.formatting import NONE, duration, escape, ordered, script_json, style
from bvjax.lvbench.report.cards import cards
from bvjax.lvbench.report.tables import aggregate_table, videos_table, worst_first

ASSETS = pathlib.Path(bvjax.__file__).parent / "assets/report"
BUDGET = 12 << 20  # bytes of pictures before they are made smaller
SMALL = 96  # pixels: their width then

Results = Mapping[str, Any]
Pictures = Mapping[str, Sequence[bytes] | None]


def html(results: Results, pictures: Pictures) -> str:
    """The page, the same for the same input.

    Args:
        results: what `results.build` made.
        pictures: for each video's name JPEG files of its chunks' middles, or None.  Where all of
            them are more than `BUDGET`, smaller ones are made of them.
    """
    videos = worst_first(results)
    pictures = _within_budget(pictures, BUDGET)
    metrics = results["metrics"]
    script = (ASSETS / "page.js").read_text(encoding="utf-8").strip()
    digest = hashlib.sha256(script.encode()).digest()
    body = "\n".join(
        (
            _header(results),
            _failed(results),
            _prompts(results),
            f'<section id="aggregate"><h2>All videos</h2>{aggregate_table(results)}',
            _interpretation(results),
            "</section>",
            _videos(results, videos, pictures) if videos else "",
            _tree_section("Configuration", results.get("config") or {}),
            _tree_section("Provenance", results.get("provenance") or {}),
        )
    )
    page = string.Template((ASSETS / "page.html").read_text(encoding="utf-8"))
    return page.substitute(
        title=escape(_title(results)),
        style=(ASSETS / "page.css").read_text(encoding="utf-8").strip(),
        body=body,
        metrics=script_json([style(name, metrics) for name in ordered(metrics)]),
        script=script,
        script_hash=base64.b64encode(digest).decode(),
    )


def _title(results: Results) -> str:
    name = results["config"].get("name")
    return f"LV-Bench: {name}" if name else "LV-Bench"


def _header(results: Results) -> str:
    config, failed = results["config"], len({failure["name"] for failure in results["failed"]})
    suites = list(dict.fromkeys(str(m.get("suite")) for m in results["metrics"].values()))
    summary_rows = [
        ("videos", f"{len(results['videos']):,}", ""),
        ("failed", f"{failed:,}", "bad" if failed else ""),
        ("length of all", duration(sum(v.get("seconds") or 0 for v in results["videos"])), ""),
        ("suite", " and ".join(suites) or NONE, ""),
        ("chunks a video", config.get("segments"), ""),
        ("weights of the VDE", config.get("weights", NONE), ""),
    ]
    rows = "".join(
        f'<div class="{kind}"><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>'
        for name, value, kind in summary_rows
    )
    return f'<header><h1>{escape(_title(results))}</h1><dl class="facts">{rows}</dl></header>'


def _failed(results: Results) -> str:
    if not results["failed"]:
        return ""
    rows = "".join(
        f'<li><span class="name">{escape(failure["name"])}</span>: {escape(failure["reason"])}'
        for failure in results["failed"]
    )
    return f'<section class="failed"><h2>Could not be measured</h2><ul>{rows}</ul></section>'


def _prompts(results: Results) -> str:
    """Lists the captions without a video and the videos without a caption."""
    unmatched = results.get("prompts") or {}
    parts = []
    for key, text in (("missing", "Videos without a caption"), ("unused", "Captions not used")):
        names = unmatched.get(key) or []
        if names:
            rows = "".join(f'<li class="name">{escape(name)}' for name in names)
            parts.append(
                f"<details><summary>{text}: {len(names)}</summary><ul>{rows}</ul></details>"
            )
    return f'<section class="note prompts">{"".join(parts)}</section>' if parts else ""


def _interpretation(results: Results) -> str:
    """A note that explains the numbers."""
    return (
        '<p class="note">VDE (Eq. 19) adds up how far each later chunk is from chunk 1, relative to '
        f"chunk 1, with {escape(results['config'].get('weights', 'linear'))} weights that count "
        "early chunks most; 0 is no drift, and a change for the better counts as well. Divided by "
        "the sum of the weights it is a mean change, which does not depend on the number of "
        "chunks. \N{DOWNWARDS ARROW}: less is better, \N{UPWARDS ARROW}: more is better. "
        f"{escape(' '.join(references.interpretation(results)))}</p>"
    )


def _videos(results: Results, videos: Sequence[Mapping[str, Any]], pictures: Pictures) -> str:
    return (
        '<section id="videos"><h2>Videos</h2><p class="note">Worst first: by their ranks among all, '
        'mean over the metrics.</p><div class="tools"></div>'
        f"{videos_table(results, videos)}</section>"
        '<section id="curves"><h2>Along each video</h2>'
        '<p class="note">Curves show how far a metric is from what it was in chunk 1. A ring marks '
        "the chunk where it moved, with how far it is there from what it was before.</p>"
        '<div class="tools"></div>'
        f'<div id="cards">{cards(results, videos, pictures)}</div></section>'
    )


def _tree_section(title: str, content: Mapping[str, Any]) -> str:
    return f'<section><h2>{title}</h2><div class="sheet">{_tree(content)}</div></section>'


def _tree(content: Mapping[str, Any]) -> str:
    """Nested names and values, as they are."""
    rows = []
    for name, value in content.items():
        if isinstance(value, Mapping) and value:
            rows.append(f'<dt>{escape(name)}</dt><dd></dd><dd class="tree-in">{_tree(value)}</dd>')
            continue
        if value is None or value == "" or value == {} or value == []:
            text = NONE
        elif isinstance(value, list | tuple):
            text = escape(", ".join(map(str, value)))
        else:
            text = escape(value)
        rows.append(f"<dt>{escape(name)}</dt><dd><code>{text}</code></dd>")
    return f'<dl class="tree">{"".join(rows)}</dl>'


def _within_budget(pictures: Pictures, budget: int) -> Pictures:
    """The pictures as they are, or all of them smaller."""
    if sum(len(jpeg) for jpegs in pictures.values() for jpeg in jpegs or ()) <= budget:
        return pictures
    return {
        name: None if jpegs is None else [_smaller(jpeg) for jpeg in jpegs]
        for name, jpegs in pictures.items()
    }


def _smaller(jpeg: bytes) -> bytes:
    image = PIL.Image.open(io.BytesIO(jpeg)).convert("RGB")
    if image.width > SMALL:
        size = (SMALL, max(1, round(image.height * SMALL / image.width)))
        image = image.resize(size, PIL.Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return buffer.getvalue()

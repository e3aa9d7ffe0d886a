"""What is drawn and measured of curated films, on small ones; committed captions and decisions agree with each other."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from bvjax.errors import UserError
from bvjax.files import read_json_lines
from data_pipelines.curation.reviews import decision_of
from experiments.films import many_entries, reasons, timeline
from tests.bvjax.lvbench.clips import write_clip

FILMS = Path(many_entries.__file__).parent


@pytest.fixture
def rows(tmp_path):
    """A film of eight seconds that gets brighter, with three takes."""
    path = write_clip(tmp_path / "a.mkv", range(0, 256, 4), (36, 64), fps=8)
    gone = lambda kind: {"stage": "quality", "kind": kind, "why": "x"}
    take = lambda start, stop, **more: {
        "film": "a.mkv", "path": str(path), "start": start, "stop": stop, "rate": 8, **more
    }  # fmt: skip
    chunks = [{"start": 1, "stop": 9}, {"start": 9, "stop": 17}]
    return [
        take(0.0, 2.5, chunks=chunks),
        take(2.5, 4.0, dropped=gone("blurred")),
        take(4.0, 8.0, dropped=gone("blurred")),
        {"film": "b", "path": "b", "dropped": gone("cannot be read")},
    ]


def test_a_frame_of_each_kind(rows, tmp_path):
    assert {k: row["start"] for k, row in reasons.examples(rows).items()} == {
        "kept": 0.0,
        "blurred": 4.0,
    }
    sheet = reasons.draw(rows[:3])
    assert sheet.shape == (160, 1024, 3)
    for number, level in enumerate((4 * 9, 4 * 48)):  # frames 9 and 48
        assert abs(float(sheet[80, 256 * number + 100].mean()) - level) <= 4
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [f"--data={tmp_path}", f"--out={tmp_path / 'x.jpg'}"]
    assert reasons.main([*words, "--film=a.mkv"]) == 0
    assert (tmp_path / "x.jpg").read_bytes()[:2] == b"\xff\xd8"
    assert reasons.main([*words, "--film=c"]) == 2 and reasons.main([*words, "--film=b"]) == 2


def test_what_lies_where(rows):
    picture = np.asarray(PIL.Image.open(io.BytesIO(timeline.draw(rows))).convert("RGB"))
    blue = np.array([0x2C, 0x7F, 0xB8])  # of what is kept
    assert (np.abs(picture.astype(int) - blue).max(-1) < 8).sum() > 1000
    with pytest.raises(UserError, match="no film has a take"):
        timeline.draw(rows[3:])


def test_many_entries_are_counted(tiny, tmp_path):
    many_entries.make(tmp_path / "films", 3)
    once = lambda: many_entries.once(tmp_path / "films", tiny.weights, tmp_path / "out")
    assert (
        once()["done"] == 3 * 7 + 1
    )  # a film in each stage, and all together among the duplicates
    assert once()["done"] == 0


def test_captions_and_decisions_are_about_the_same_chunks():
    captions = {c["id"]: c["caption"] for _, c in read_json_lines(FILMS / "captions.jsonl")}
    decisions = [decision_of(content) for _, content in read_json_lines(FILMS / "review.jsonl")]
    assert len(captions) == 75 and {d.id: d.was for d in decisions} == captions
    assert sum(d.verdict == "reject" for d in decisions) == 24

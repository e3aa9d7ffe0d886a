"""Decisions about takes, from numbers made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bvjax.errors import UserError
from bvjax.overrides import apply_overrides
from data_pipelines.curation import duplicates as module
from data_pipelines.curation.chunks import chunks, split_take
from data_pipelines.curation.decisions import motion, quality
from data_pipelines.curation.duplicates import duplicates
from data_pipelines.curation.rows import is_kept
from data_pipelines.curation.settings import Chunks, Duplicates, Motion, Quality, Settings, Takes
from data_pipelines.curation.takes import takes


def film(seconds: float, cuts: list[float]) -> dict:
    times = [i / 2 for i in range(int(2 * seconds))]
    tracks = {
        name: [float(i) for i in range(len(times))]
        for name in ("flow", "camera", "subject", "luma")
    }
    return {
        "id": "a", "film": "a", "path": "/a", "fps": 16.0, "seconds": seconds, "cuts": cuts, "bytes": 1,
        "tracks": {"t": times, **tracks},
    }  # fmt: skip


def test_takes_lie_between_cuts():
    found = takes(film(30, [4, 20]), Takes(least_seconds=5, most_seconds=8, trim=0.25))
    assert [(t["start"], t["stop"], t["begins"], is_kept(t)) for t in found] == [
        (0.0, 3.75, "film", False),
        (4.25, 12.0, "cut", True),
        (12.0, 19.75, "split", True),
        (20.25, 25.125, "cut", False),
        (25.125, 30.0, "split", False),
    ]
    assert [t["id"] for t in found][:2] == ["a#00000000", "a#00004250"]
    assert found[0]["dropped"]["why"] == "it lasts 3.8 s, takes.least_seconds is 5"
    tracks = found[1]["tracks"]
    assert tracks["t"][0] == 4.5 and tracks["t"][-1] == 11.5
    assert (
        tracks["luma"][0] == 9 and tracks["flow"][0] == 10
    )  # no flow from before its first sample
    assert len(tracks["flow"]) == len(tracks["t"]) - 1
    assert "bytes" not in found[1]


def take(name: str, hashes: list[int], sha: str = "", film: str = "") -> dict:
    film = film or name
    return {
        "id": name,
        "film": film,
        "path": "",
        "sha256": sha or film,
        "tracks": {"hash": [f"{h:016x}" for h in hashes]},
    }


def test_duplicates():
    rows = [
        take("a", [0xFFFF << 10, 0xF0F0F0F0F0]),
        take("near", [0xFFFF << 10 ^ 0b10101, 0xF0F0F0F0F0 ^ 1 << 63]),
        take("far", [0xFFFF << 10 ^ 0b1111111 << 30, 0x123456789ABCDEF]),
        take("half", [0xFFFF << 10, 0x55555555]),
        take("b", [5], sha="a"),
    ]
    found = duplicates(rows, Duplicates(most_bits=6, share=0.8))
    assert [row.get("dropped", {}).get("why") for row in found] == [
        None, "100% of its pictures are those of a", None, None, "its film is the same file as a",
    ]  # fmt: skip
    loose = duplicates(rows, Duplicates(most_bits=6, share=0.5))
    assert not is_kept(loose[3]) and is_kept(loose[2])


@settings(max_examples=60, deadline=None)
@given(
    hashes=st.lists(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=3), max_size=5),
    flips=st.lists(st.sets(st.integers(0, 63), max_size=16), min_size=1, max_size=4),
    bits=st.integers(0, 15),
)
def test_near_pictures_are_all_found(hashes, flips, bits):
    """Against every pair compared; takes are made near each other on purpose."""
    takes = [
        *hashes,
        *([h ^ sum(1 << b for b in flip) for h in of] for of in hashes for flip in flips),
    ]
    rows = [take(f"{i:03d}", of) for i, of in enumerate(takes)]
    kept: list[int] = []
    for i, of in enumerate(takes):
        near = lambda h, j: any((h ^ o).bit_count() <= bits for o in takes[j])
        if not any(sum(near(h, j) for h in of) >= 0.8 * len(of) for j in kept):
            kept.append(i)
    found = duplicates(rows, Duplicates(most_bits=bits, share=0.8))
    assert [i for i, row in enumerate(found) if is_kept(row)] == kept


def test_a_picture_that_all_have_costs_no_more_and_more(monkeypatch):
    """A black one at the beginning of each of many takes."""
    rng = np.random.default_rng(0)
    rows = [take(f"{i:04d}", [0, *map(int, rng.integers(0, 2**62, 3))]) for i in range(400)]
    looked = []
    whole = module._Seen._with
    monkeypatch.setattr(
        module._Seen, "_with", lambda self, v: looked.append(len(t := whole(self, v))) or t
    )
    assert all(map(is_kept, duplicates(rows, Duplicates())))
    assert max(looked) == module.COMMON and len(looked) == 4 * 400


def test_motion():
    row = {"tracks": {"flow": [1.0, 3.0], "camera": [2.0, 1.0], "subject": [0.2, 0.3]}}
    (kept,) = motion(row, Motion(least=1, most=5))
    assert (
        kept["motion"] == {"flow": 2.0, "camera": 1.5, "subject": 0.25}
        and kept["moves"] == "camera"
    )
    assert motion(row, Motion(camera=0.9))[0]["moves"] == "subject"
    assert motion(row, Motion(least=2.5))[0]["dropped"]["why"] == (
        "its mean optical flow is 2.00 pixels, motion.least is 2.5"
    )
    assert motion(row, Motion(most=1.5))[0]["dropped"]["kind"] == "too fast"
    assert (
        motion({"tracks": dict.fromkeys(row["tracks"], [])}, Motion())[0]["dropped"]["kind"]
        == "too still"
    )


GOOD = {
    "sharpness": [50.0, 90.0, 70.0], "aesthetic": [0.4, 0.5, 0.6], "bars": [[0, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 0]],
    "text": [0.0, 0.9, 0.01], "luma": [5, 100, 100], "camera": [3.0, 3.0],
    "still": [[0, 0, 0, 0.2, 0.1], [0, 0, 0, 0.2, 0.1], [0, 0, 0, 0.2, 0.1]],
}  # fmt: skip


def test_quality_of_a_good_take():
    (row,) = quality({"tracks": GOOD}, Quality())
    assert row == {
        "quality": {
            "sharpness": 70.0, "aesthetic": 0.5, "letterbox": 0.0, "text": 0.01, "watermark": 0.1, "dark": 0.3333,
        }
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"sharpness": [5.0, 6.0, 90.0]}, "blurred"),
        ({"bars": [[0.1, 0.2, 0, 0]] * 3}, "letterbox"),
        ({"text": [0.2] * 3}, "writing"),
        ({"still": [[0, 0.9, 0, 0, 0.1]] * 3}, "watermark"),
        ({"still": [[0, 0.9, 0, 0, 0.1]] * 3, "camera": [0.1, 0.1]}, None),  # all may stand still
        ({"still": [[0, 0.9, 0, 0, 0.8]] * 3}, None),
        ({"aesthetic": [0.1] * 3}, "unsightly"),
        ({"luma": [3.0] * 3}, "dark"),
    ],
)
def test_quality_of_bad_ones(changes, kind):
    (row,) = quality({"tracks": GOOD | changes}, Quality())
    assert row.get("dropped", {}).get("kind") == kind


def row(start: float, stop: float) -> dict:
    return {"id": "a#1", "film": "a", "path": "", "fps": 16.0, "start": start, "stop": stop}


def test_chunks_are_those_of_the_model(tiny):
    """A second of 8 frames; the frame before a take's first chunk is its own first frame."""
    (cut,) = chunks(row(1.1, 4.4), Chunks(least=2), tiny.model)
    assert cut["first"] == 9  # 1.125 s
    # Up to 4.36875 s, where the next scene's first frame would be as near: frame 34, so 26 frames.
    assert [(c["start"], c["stop"]) for c in cut["chunks"]] == [(10, 18), (18, 26), (26, 34)]
    assert [c["id"] for c in cut["chunks"]] == ["a#1.000", "a#1.001", "a#1.002"]
    (short,) = chunks(row(1.1, 2.6), Chunks(least=2), tiny.model)
    assert short["dropped"]["why"] == "it has 1 chunks of 1 s, chunks.least is 2"


def test_a_take_is_split_where_chunks_are_bad(tiny):
    (cut,) = chunks(row(0, 8), Chunks(), tiny.model)
    assert len(cut["chunks"]) == 7
    assert split_take(cut, [True] * 7, "review", "rejected", "why", 2) == [cut]
    pieces = split_take(
        cut, [True, True, False, True, False, True, True], "review", "rejected", "why", 2
    )
    assert [(p["id"], p["first"], len(p["chunks"]), is_kept(p)) for p in pieces] == [
        ("a#1.000-001", 0, 2, True),
        ("a#1.003-003", 24, 1, False),
        ("a#1.005-006", 40, 2, True),
    ]
    assert pieces[2]["chunks"][0]["start"] == 41
    (gone,) = split_take(cut, [False] * 7, "review", "rejected", "why", 2)
    assert gone["dropped"] == {"stage": "review", "kind": "rejected", "why": "why"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("takes.trim=11", "takes.trim is 11; it can be 0 to 10"),
        ("takes.most_seconds=1", "takes.most_seconds is 1; it can be 5 to 86400"),
        ("scenes.flow=farneback", "scenes.flow is 'farneback'; it can be dis or raft"),
        ("review.reject=some", "review.reject is 'some'; it can be any or majority"),
        ("motion.lest=1", "motion.lest"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, message):
    with pytest.raises(UserError) as error:
        apply_overrides(Settings(), [change])
    assert message in str(error.value)

"""Drift measures move with what they are meant to see, and the report is complete."""

import io

import numpy as np
import PIL.Image

from bvjax.presets import get_preset
from bvjax.runs.report import drift_report, report_picture
from bvjax.runs.report.drift_report import measure_later
from bvjax.runs.report.run_report import capacity_warning


def measure(frames, previous=None):
    return measure_later(frames, previous)()


def clip(seed=0, frames=9, size=32, speed=1):
    """A textured picture that slides to the right."""
    rng = np.random.default_rng(seed)
    texture = rng.uniform(40, 215, (size // 4, size // 4, 3)).repeat(4, 0).repeat(4, 1)
    texture = sum(np.roll(texture, s, a) for s in range(3) for a in (0, 1)) / 6
    return np.stack([np.roll(texture, speed * t, axis=1) for t in range(frames)]).astype(np.uint8)


def test_blur_lowers_clarity_only():
    sharp = clip()
    blurred = sum(np.roll(sharp.astype(float), s, 1) for s in range(-2, 3)) / 5
    before, after = measure(sharp), measure(blurred.astype(np.uint8))
    assert after.clarity < 0.6 * before.clarity
    assert np.allclose(after.colour, before.colour, atol=1.0)


def test_colour_shift_shows_in_colour_and_saturation():
    before = measure(clip())
    shifted = clip().astype(int) + np.array([40, 0, -40])
    after = measure(shifted.clip(0, 255).astype(np.uint8))
    change = np.subtract(after.colour, before.colour)
    assert change[0] > 30 and change[2] < -30 and abs(change[1]) < 1e-3
    assert after.saturation > before.saturation


def test_motion():
    still, slow, fast = (measure(clip(speed=s)).motion for s in (0, 1, 2))
    assert still < 0.05 < slow < fast


def test_a_jump_between_chunks_shows_as_a_seam():
    frames = clip(frames=18)
    smooth = measure(frames[9:], frames[8]).seam
    jump = measure(clip(seed=5), frames[8]).seam
    assert 0.8 < smooth < 1.2 and jump > 2 * smooth
    assert measure(frames).seam is None
    assert measure(np.zeros((4, 8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)).seam == 1


def make_report(chunks):
    drift = {n: measure(clip(n), clip(n)[0] if n > 1 else None) for n in range(1, chunks + 1)}
    memory = {
        n: {
            "retrieved": [
                {"chunk": c, "role": r, "score": 0.5}
                for c, r in ((0, "anchor"), (n - 1, "recent"), (1, "semantic"))
                if c < n
            ],
            "kept_ratio": [0.5, 1.0],
            "coverage": [0.98, 1.0],
            "clipped": [1.0, 0.0],
        }
        for n in drift
    }
    return drift_report.report([f"c{n}" for n in drift], drift, memory, {"seed": 3})


def test_report():
    report = make_report(3)
    assert report["seed"] == 3 and report["clipped_share"] == 0.5
    assert report["coverage"] == 0.99
    assert [chunk["caption"] for chunk in report["chunks"]] == ["c1", "c2", "c3"]
    scores = [chunk["clarity"] for chunk in report["chunks"]]
    expected = (2 * abs(scores[1] / scores[0] - 1) + abs(scores[2] / scores[0] - 1)) / 3
    assert abs(report["chunk_drift"]["clarity"] - expected) < 1e-3


def test_picture_for_any_number_of_chunks():
    for chunks in (1, 3, 24):
        stills = [clip(n)[0] for n in range(chunks)]
        content = report_picture.draw(make_report(chunks), stills, "a title")
        image = PIL.Image.open(io.BytesIO(content))
        assert image.width > 1000 and np.asarray(image.convert("L")).std() > 10


def test_a_capacity_that_decides_is_told():
    """Where most writes are clipped tau asks in vain; half of them are not most."""
    model = get_preset("wan-1.3b")
    report = {"clipped_share": 0.5, "coverage": 0.7512}
    assert capacity_warning(report, model) is None
    told = capacity_warning(report | {"clipped_share": 0.9}, model)
    assert told is not None
    for part in ("90%", "memory.tau=0.98", "18944 rows", "75% of", "memory.capacity=37440"):
        assert part in told

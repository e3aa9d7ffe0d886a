"""Results of evaluations that never happened, for looking at reports of any size."""

import io

import numpy as np
import PIL.Image

from bvjax.lvbench.change import movement
from bvjax.lvbench.suites import ENTRIES
from bvjax.lvbench.vde import drift_weights, vde

KEYS = ("subject", "background", "motion", "aesthetic", "clarity")
WAVER = {"subject": 0.01, "background": 0.006, "motion": 0.001, "aesthetic": 0.03, "clarity": 0.08}
HOSTILE = """</script><img src=x onerror=alert(1)> "quoted" 'too' & <!-- ${title}"""


def made_up(
    count=12,
    segments=10,
    suites=("official",),
    names=None,
    failed=(),
    missing=(),
    prompt="",
    seed=0,
):
    """A results.json of `count` videos.

    missing: (place of the video, metric) whose first score is 0, so that it has no VDE.
    """
    generator = np.random.default_rng(seed)
    metrics = [e for e in ENTRIES.values() if e.suite in suites and e.key in KEYS]
    videos = []
    for place in range(count):
        scores = {}
        for entry in metrics:
            steps = generator.normal(0, WAVER[entry.key] / 3, segments)
            level = np.exp(np.cumsum(steps) - steps[0])
            breaks = int(generator.integers(2, segments + 1))
            if generator.random() < 0.4:
                level[breaks - 1 :] *= np.exp(-generator.exponential(8 * WAVER[entry.key]))
            zero = (place, entry.name) in missing
            chunks = 0.8 * level * (0 if zero else 1)
            plain = None if zero else float(vde(chunks))
            scores[entry.name] = {
                "chunks": chunks.tolist(),
                "vde": plain,
                "vde_normalised": None if zero else plain / drift_weights(segments).sum(),
                "wmape": None if zero else plain / 50,
                "whole": float(chunks.mean()) if entry.complement else None,
                "weight": 1,
                "moved": movement(chunks).as_dict(),
                "reason": "the first chunk scores 0" if zero else "",
            }
        seconds = 60.0 + place
        videos.append(
            {
                "name": names[place] if names else f"folder/video {place:03d}.mp4",
                "sha256": f"{place:064x}",
                "frames": int(16 * seconds),
                "fps": 16.0,
                "height": 480,
                "width": 854,
                "seconds": seconds,
                "prompt": prompt or None,
                "scores": scores,
            }
        )
    return {
        "format": "bvjax-lvbench-1",
        "config": {"name": "made up", "suite": "all", "segments": segments, "weights": "linear"},
        "provenance": {"bvjax": "0.1.0", "weights": {"dino_vitb16": "ab" * 32}, "prompts": None},
        "metrics": {
            e.name: {"title": e.title, "suite": e.suite, "complement": e.complement}
            for e in metrics
        },
        "videos": videos,
        "failed": [{"name": name, "reason": reason} for name, reason in failed],
        "aggregate": {e.name: _aggregate(videos, e.name) for e in metrics},
    }


def _aggregate(videos, metric):
    found = [v["scores"][metric] for v in videos]
    excluded = [
        {"name": v["name"], "reason": v["scores"][metric]["reason"]}
        for v in videos
        if v["scores"][metric]["vde"] is None
    ]

    def mean(key):
        values = [s[key] for s in found if s[key] is not None]
        if not values:
            return {"mean": None, "median": None, "low": None, "high": None, "n": 0}
        half = 1.96 * np.std(values) / np.sqrt(len(values)) if len(values) > 1 else None
        centre = float(np.mean(values))
        return {
            "mean": centre,
            "median": float(np.median(values)),
            "low": None if half is None else centre - half,
            "high": None if half is None else centre + half,
            "n": len(values),
        }

    return {
        "vde": {**mean("vde"), "excluded": excluded},
        "vde_normalised": mean("vde_normalised"),
        "whole": {**mean("whole"), "frame_weighted": None, "video_mean": None},
    }


def stills(results, width=160, noise=False):
    """A JPEG for each chunk of each video: colours that change along it."""
    generator = np.random.default_rng(0)
    height = width * 9 // 16
    found = {}
    for place, video in enumerate(results["videos"]):
        files = []
        for chunk in range(results["config"]["segments"]):
            picture = np.zeros((height, width, 3), np.uint8)
            picture[:] = (40 + 20 * chunk % 200, (place * 37) % 255, 255 - 20 * chunk % 200)
            picture[height // 3 : height // 2, 10 + 8 * chunk : 30 + 8 * chunk] = 250
            if noise:
                picture = picture // 2 + generator.integers(0, 120, picture.shape, np.uint8)
            buffer = io.BytesIO()
            PIL.Image.fromarray(picture).save(buffer, "JPEG", quality=80)
            files.append(buffer.getvalue())
        found[video["name"]] = files
    return found

"""Motion and quality: what the samples of a take say, and whether it is good enough."""

from __future__ import annotations

import numpy as np

from data_pipelines.curation.rows import Row, dropped
from data_pipelines.curation.settings import Motion, Quality

MOVING = (
    2.0  # pixels of the camera's flow: from here on what stands still is on the picture, not in it
)


def motion(row: Row, settings: Motion) -> list[Row]:
    """Adds `motion`, the mean flow with its parts, and `moves`: "camera" or "subject", what does most of it."""
    tracks = row["tracks"]
    mean = {name: _mean(tracks[name]) for name in ("flow", "camera", "subject")}
    explained = mean["camera"] / (mean["camera"] + mean["subject"] + 1e-9)
    moves = "camera" if explained >= settings.camera else "subject"
    row = {**row, "motion": mean, "moves": moves}
    if mean["flow"] < settings.least:
        why = f"its mean optical flow is {mean['flow']:.2f} pixels, motion.least is {settings.least:g}"
        return [dropped(row, "motion", "too still", why)]
    if mean["flow"] > settings.most:
        why = (
            f"its mean optical flow is {mean['flow']:.0f} pixels, motion.most is {settings.most:g}"
        )
        return [dropped(row, "motion", "too fast", why)]
    return [row]


def quality(row: Row, settings: Quality) -> list[Row]:
    """Adds `quality`: the measures by name; a take goes by the first that is out of bounds."""
    measures = measures_of(row["tracks"])
    row = {**{k: v for k, v in row.items() if k != "tracks"}, "quality": measures}
    checks = (
        ("dark", ">", settings.most_dark, "most_dark", "dark", "share of frames that are dark"),
        ("sharpness", "<", settings.least_sharpness, "least_sharpness", "blurred", "sharpness"),
        ("letterbox", ">", settings.most_letterbox, "most_letterbox", "letterbox", "share of black bars"),
        ("text", ">", settings.most_text, "most_text", "writing", "share of writing"),
        ("watermark", ">", settings.most_watermark, "most_watermark", "watermark", "share of a corner that never moves"),
        ("aesthetic", "<", settings.least_aesthetic, "least_aesthetic", "unsightly", "aesthetic score"),
    )  # fmt: skip
    for name, side, bound, option, kind, words in checks:
        value = measures[name]
        if value < bound if side == "<" else value > bound:
            why = f"its {words} is {value:.3g}, quality.{option} is {bound:g}"
            return [dropped(row, "quality", kind, why)]
    return [row]


def measures_of(tracks: dict[str, list]) -> dict[str, float]:
    """The measures of a take from its samples.

    Letterbox: the bars that all samples have. Watermark: of the corner where most does, the share of edges that stand
    still (`measure.standing_still`), less that share in the middle; 0 unless the camera moves, because a fixed camera
    sees still things of the world.
    """
    bars = np.array(tracks["bars"]).min(axis=0)
    inside = (1 - bars[0] - bars[1]) * (1 - bars[2] - bars[3])
    return {
        "sharpness": round(float(np.median(tracks["sharpness"])), 4),
        "aesthetic": _mean(tracks["aesthetic"]),
        "letterbox": round(float(1 - inside), 4),
        "text": round(float(np.median(tracks["text"])), 4),
        "watermark": watermark(tracks["still"], _mean(tracks["camera"])),
        "dark": round(float((np.array(tracks["luma"]) < 10).mean()), 4),
    }


def watermark(still: list[list[float]], camera: float) -> float:
    """See `measures_of`."""
    if camera < MOVING:
        return 0.0
    *corners, middle = np.mean(still, axis=0)
    return round(float(max(0.0, max(corners) - middle)), 4)


def _mean(values: list[float]) -> float:
    return round(float(np.mean(values)), 4) if values else 0.0

"""Takes: the stretches of a film without a cut that are long enough."""

from __future__ import annotations

import math

from data_pipelines.curation.rows import Row, dropped
from data_pipelines.curation.settings import Takes

OF_FILM = ("bytes", "changed", "container", "codec", "pixel_format", "sound", "stated_fps", "stated_seconds", "cuts",
           "tracks", "seconds")  # fmt: skip


def takes(row: Row, settings: Takes) -> list[Row]:
    """A row for each scene, cut at `trim` seconds from its cuts; one longer than `most_seconds` becomes several.

    `begins` says how a take does: "film" (with the film, perhaps in the middle of a shot), "cut", or "split" (in the
    middle of a shot, where a longer one was split). Those that are too short are dropped.
    """
    edges = [0.0, *row["cuts"], row["seconds"]]
    shared = {key: value for key, value in row.items() if key not in OF_FILM}
    out = []
    for number, (start, stop) in enumerate(zip(edges, edges[1:], strict=False)):
        start += settings.trim if number else 0.0
        stop -= settings.trim if number < len(edges) - 2 else 0.0
        begins = "cut" if number else "film"
        for part, (first, last) in enumerate(_parts(start, stop, settings.most_seconds)):
            take = {
                **shared,
                "id": f"{row['film']}#{round(first * 1000):08d}",
                "start": round(first, 4),
                "stop": round(last, 4),
                "begins": "split" if part else begins,
                "tracks": _between(row["tracks"], first, last),
            }
            if last - first < settings.least_seconds or not take["tracks"]["t"]:
                why = f"it lasts {max(0.0, last - first):.1f} s, takes.least_seconds is {settings.least_seconds:g}"
                take = dropped({**take, "tracks": {}}, "takes", "too short", why)
            out.append(take)
    return out


def _parts(start: float, stop: float, most: float) -> list[tuple[float, float]]:
    """Equal parts of a stretch, none longer than `most`."""
    count = max(1, math.ceil((stop - start) / most - 1e-9))
    length = (stop - start) / count
    return [(start + i * length, start + (i + 1) * length) for i in range(count)]


def _between(tracks: dict[str, list], start: float, stop: float) -> dict[str, list]:
    """The samples in [start, stop); flow from before the first is none of the take's."""
    inside = [i for i, t in enumerate(tracks["t"]) if start <= t < stop]
    cut = {name: [values[i] for i in inside] for name, values in tracks.items()}
    for name in ("flow", "camera", "subject"):
        cut[name] = cut[name][1:]
    return cut

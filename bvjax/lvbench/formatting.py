"""Numbers, names and times as results and the report show them; text from outside is escaped here."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from bvjax.lvbench.suites import METRIC_ENTRIES

NONE = "\N{EN DASH}"
UNIT = "\N{NO-BREAK SPACE}%"
MINUS = "\N{MINUS SIGN}"
_HUES = (
    "subject",
    "background",
    "motion",
    "aesthetic",
    "clarity",
    "dynamic",
    "motion_smoothness",
    "background_compensated",
)


def escape(text: Any) -> str:
    """Text for an element or a quoted attribute."""
    return html.escape(str(text), quote=True)


def script_json(content: Any) -> str:
    """JSON that can stand in a <script>: no `<`, so neither `</script>` nor `<!--` ends it early."""
    return json.dumps(content, allow_nan=False).replace("<", "\\u003c")


def finite(value: Any) -> float | None:
    """The number, or None for null, NaN and infinities."""
    return float(value) if value is not None and math.isfinite(value) else None


def significant(value: Any, digits: int = 6) -> float | None:
    """`finite`, rounded to so many significant digits."""
    number = finite(value)
    return None if number is None else float(f"{number:.{digits}g}")


def number(value: Any) -> str:
    """Four decimals, as in the paper's tables; fewer for large numbers."""
    x = finite(value)
    if x is None:
        return NONE
    size = abs(x)
    digits = 4 if size < 100 else 2 if size < 1e4 else 0
    text = f"{size:,.{digits}f}" if size < 1e9 else f"{size:.3g}"
    return (MINUS if x < 0 else "") + text


def percent(value: Any, signed: bool = False) -> str:
    """A share as a percentage of two significant digits: 43 %, 1.9 %, 0.032 %."""
    x = finite(value)
    if x is None:
        return NONE
    size = abs(100 * x)
    if size < 5e-5:
        return f"0{UNIT}"
    digits = 0 if size >= 10 else min(4, 1 - math.floor(math.log10(size)))
    text = f"{size:,.{digits}f}" if size < 1e9 else f"{size:.2g}"
    return (MINUS if x < 0 else "+" if signed else "") + text + UNIT


def duration(seconds: Any) -> str:
    """7.5 s, 1:12 (minutes and seconds) or 2:01:12 (hours as well)."""
    x = finite(seconds)
    if not x:
        return NONE
    if x < 60:
        return f"{x:.3g} s"
    minutes, remainder = divmod(round(x), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{remainder:02}" if hours else f"{minutes}:{remainder:02}"


def chunk_times(video: Mapping[str, Any], segments: int) -> list[str]:
    """Returns the time span of each chunk, "24-28 s" with an en dash; in frames for an unknown rate.

    Tenths of seconds are shown for chunks below five seconds only.
    """
    length = int(video.get("frames") or 0) // segments
    fps = finite(video.get("fps")) or 0.0
    edges = [i * length / fps if fps else i * length for i in range(segments + 1)]
    unit = " s" if fps else ""
    has_whole_seconds = all(abs(edge - round(edge)) < 0.05 for edge in edges)
    digits = 0 if has_whole_seconds or edges[1] >= 5 else 1
    text = [f"{edge:.{digits}f}" for edge in edges]
    if not fps:
        return [f"frames {a}{NONE}{int(b) - 1}" for a, b in zip(text, text[1:], strict=False)]
    return [f"{a}{NONE}{b}{unit}" for a, b in zip(text, text[1:], strict=False)]


def ordered(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of metrics, suite by suite in the order of the paper's Table 2."""
    positions = {name: position for position, name in enumerate(METRIC_ENTRIES)}
    return sorted(metrics, key=lambda name: (positions.get(name, len(positions)), name))


def label(name: str, metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """A metric's title, with its suite where several suites were measured."""
    metadata = metrics[name]
    title = str(metadata.get("title", name))
    has_several_suites = len({m.get("suite") for m in metrics.values()}) > 1
    return f"{title} ({metadata.get('suite')})" if has_several_suites else title


def style(name: str, metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns how a metric is drawn: a hue and marker by its key, dashes for a second suite."""
    key = name.rpartition("/")[2]
    suites: Sequence[Any] = list(dict.fromkeys(metrics[n].get("suite") for n in ordered(metrics)))
    hue = _HUES.index(key) if key in _HUES else sum(key.encode()) % len(_HUES)
    return {
        "name": name,
        "title": label(name, metrics),
        "hue": hue,
        "dashed": suites.index(metrics[name].get("suite")) > 0,
    }

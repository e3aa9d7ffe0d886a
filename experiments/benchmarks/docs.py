"""docs/performance.md: one section a device and measurement, written by what measured it.

    <!-- measured: DEVICE | NAME -->
    ...
    <!-- end -->

Sections are replaced whole and kept in order, those of a device together; the text before the first
of them is written by hand.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from bvjax.files import write_atomic

VARIABLE = "BVJAX_PERFORMANCE"  # another file, for a machine whose checkout is thrown away
PATH = Path(
    os.environ.get(VARIABLE, Path(__file__).resolve().parents[2] / "docs" / "performance.md")
)
_SECTION = re.compile(
    r"<!-- measured: (?P<device>.*?) \| (?P<name>.*?) -->\n(?P<body>.*?)\n<!-- end -->", re.DOTALL
)
_HEADING = re.compile(r"^## Measured on .*\n+", re.MULTILINE)


def write_section(device: str, name: str, body: str, path: Path | None = None) -> None:
    """Puts a section into the document, in the place of one of the same device and name."""
    path = PATH if path is None else path
    text = path.read_text(encoding="utf-8") if path.exists() else "# Performance\n"
    sections = {(m["device"], m["name"]): m["body"] for m in _SECTION.finditer(text)}
    head = _SECTION.split(text, maxsplit=1)[0]
    sections[device, name] = body.strip()
    parts = [_HEADING.sub("", head).strip()]
    for owner in dict.fromkeys(device for device, _ in sections):
        parts.append(f"## Measured on {owner}")
        parts += [
            f"<!-- measured: {owner} | {name} -->\n{body}\n<!-- end -->"
            for (device, name), body in sections.items()
            if device == owner
        ]
    write_atomic(path, ("\n\n".join(parts) + "\n").encode())


def section(title: str, command: str, versions: str, text: str) -> str:
    """The body of a section: heading, what made it, and the result."""
    return f"### {title}\n\n`{command}` ({versions})\n\n{text.strip()}"

"""Sources of the paper's videos: LV-Bench's (Table 1) and LV-1.1M's (appendix A.6), with their terms.

Terms are what a source's own page or repository said in November 2026; "unknown" where none of them was found to say
anything. They are about the lists and annotations that the sources give: the films themselves are mostly other
people's, found on the net. Read them where they are before you use any.
"""

from __future__ import annotations

import dataclasses

from bvjax.lvbench.dataset.checks import CLASSES


@dataclasses.dataclass(frozen=True)
class Origin:
    """A source.

    Args:
        name: of it, as the paper has it.
        videos: how many LV-Bench has of it; 0 where only LV-1.1M has.
        classes: how many of them are of each of `CLASSES`.
        sets: of "LV-Bench" and "LV-1.1M", those that took from it.
        address: where it is to be had.
        terms: of using it, in a few words.
    """

    name: str
    videos: int
    classes: tuple[int, int, int]
    sets: tuple[str, ...]
    address: str
    terms: str


BENCH, TRAIN = "LV-Bench", "LV-1.1M"
ORIGINS = (
    Origin(
        "DanceTrack", 66, (66, 0, 0), (BENCH,), "https://github.com/DanceTrack/DanceTrack",
        "non-commercial research; annotations CC-BY 4.0; the videos are others', from the net",
    ),
    Origin("GOT-10k", 272, (177, 54, 41), (BENCH,), "http://got-10k.aitestunion.com/", "unknown"),
    Origin(
        "HD-VILA-100M", 117, (47, 35, 35), (BENCH, TRAIN),
        "https://github.com/microsoft/XPretrain/tree/main/hd-vila-100m",
        "Research Use of Data Agreement 1.0: computation for non-commercial research; addresses of videos alone",
    ),
    Origin("ShareGPT4V", 545, (381, 82, 82), (BENCH,), "https://sharegpt4v.github.io/", "unknown"),
    Origin(
        "Panda-70M", 0, (0, 0, 0), (TRAIN,), "https://github.com/snap-research/Panda-70M",
        "for information only, no licence is granted; addresses of videos alone",
    ),
    Origin("private videos", 0, (0, 0, 0), (TRAIN,), "", "not public (about a million, says A.6)"),
)  # fmt: skip


def table() -> list[str]:
    """Lines of a Markdown table, a row for each source."""
    lines = [
        f"| source | videos of LV-Bench | {', '.join(CLASSES)} | of | where | terms |",
        "|---|---|---|---|---|---|",
    ]
    for origin in ORIGINS:
        classes = ", ".join(map(str, origin.classes)) if origin.videos else ""
        sets = ", ".join(origin.sets)
        count = str(origin.videos or "")
        cells = (origin.name, count, classes, sets, origin.address, origin.terms)
        lines.append(f"| {' | '.join(cells)} |")
    return lines

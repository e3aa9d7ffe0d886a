"""Duplicates: films that are the same file, and takes that show the same pictures."""

from __future__ import annotations

import collections
import dataclasses
import itertools

from data_pipelines.curation.rows import Row, dropped, is_kept
from data_pipelines.curation.settings import Duplicates

PIECES, BITS = 4, 16  # of a hash of 64 bits
COMMON = 64  # takes that are remembered for one and the same picture


def duplicates(rows: list[Row], settings: Duplicates) -> list[Row]:
    """Drops every take of a file that is there under an earlier name, and takes whose pictures an earlier one has.

    Pictures are the same where their perceptual hashes differ in `most_bits` of 64 at most; two are only compared where
    one of the four pieces of their hashes differs in a quarter of these bits at most, as it must then (pigeonholes). A
    take goes where `share` of its pictures are in one earlier take. The whole manifest is looked at, in the order of
    its rows. A picture that very many takes have, such as a black one, is remembered of the first `COMMON` of them.
    """
    first_film: dict[str, str] = {}
    seen = _Seen(settings.most_bits)
    out = []
    for row in rows:
        if not is_kept(row):
            out.append(row)
            continue
        original = first_film.setdefault(row["sha256"], row["film"])
        if original != row["film"]:
            out.append(
                dropped(row, "duplicates", "same file", f"its film is the same file as {original}")
            )
            continue
        hashes = [int(text, 16) for text in row["tracks"]["hash"]]
        earlier, share = seen.best(hashes)
        if earlier and share >= settings.share:
            why = f"{share:.0%} of its pictures are those of {earlier}"
            out.append(dropped(row, "duplicates", "same pictures", why))
            continue
        seen.add(row["id"], hashes)
        out.append(row)
    return out


@dataclasses.dataclass
class _Seen:
    """Hashes of takes, found again by their pieces."""

    most_bits: int

    def __post_init__(self):
        self._takes: dict[int, list[str]] = {}  # by hash
        self._values: dict[tuple[int, int], list[int]] = {}  # hashes by a piece and its place
        flips = range(self.most_bits // PIECES + 1)
        self._masks = [
            sum(1 << bit for bit in bits)
            for count in flips
            for bits in itertools.combinations(range(BITS), count)
        ]

    def add(self, take: str, hashes: list[int]) -> None:
        for value in set(hashes):
            if value not in self._takes:
                for key in _pieces(value):
                    self._values.setdefault(key, []).append(value)
            takes = self._takes.setdefault(value, [])
            if len(takes) < COMMON:
                takes.append(take)

    def best(self, hashes: list[int]) -> tuple[str, float]:
        """The take that has most of these pictures, and their share; ("", 0) for none."""
        counts: collections.Counter[str] = collections.Counter()
        for value, times in collections.Counter(hashes).items():
            for take in self._with(value):
                counts[take] += times
        if not counts:
            return "", 0.0
        take = min(counts, key=lambda name: (-counts[name], name))
        return take, counts[take] / len(hashes)

    def _with(self, value: int) -> set[str]:
        """The takes that have a picture."""
        near = {
            other
            for place, piece in _pieces(value)
            for mask in self._masks
            for other in self._values.get((place, piece ^ mask), ())
            if (value ^ other).bit_count() <= self.most_bits
        }
        return {take for other in near for take in self._takes[other]}


def _pieces(value: int) -> list[tuple[int, int]]:
    return [(i, value >> BITS * i & (1 << BITS) - 1) for i in range(PIECES)]

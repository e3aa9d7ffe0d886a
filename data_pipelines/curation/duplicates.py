"""Duplicates: films that are the same file, and takes that show the same pictures."""

from __future__ import annotations

import dataclasses

from data_pipelines.curation.rows import Row, dropped, is_kept
from data_pipelines.curation.settings import Duplicates


def duplicates(rows: list[Row], settings: Duplicates) -> list[Row]:
    """Drops every take of a file that is there under an earlier name, and takes whose pictures an earlier one has.

    Pictures are the same where their perceptual hashes differ in `most_bits` of 64 at most; two are only compared where
    one of `most_bits` + 1 pieces of their hashes is equal, as it must be then (pigeonholes). A take goes where `share`
    of its pictures are in one earlier take. The whole manifest is looked at, in the order of its rows.
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
        self._takes: dict[tuple[int, int], list[tuple[str, int]]] = {}

    def _pieces(self, value: int) -> list[tuple[int, int]]:
        count = self.most_bits + 1
        edges = [64 * i // count for i in range(count + 1)]
        return [
            (i, value >> low & (1 << high - low) - 1)
            for i, (low, high) in enumerate(zip(edges, edges[1:], strict=False))
        ]

    def add(self, take: str, hashes: list[int]) -> None:
        for value in set(hashes):
            for piece in self._pieces(value):
                self._takes.setdefault(piece, []).append((take, value))

    def best(self, hashes: list[int]) -> tuple[str, float]:
        """The take that has most of these pictures, and their share; ("", 0) for none."""
        counts: dict[str, int] = {}
        for value in hashes:
            found = {
                take
                for piece in self._pieces(value)
                for take, other in self._takes.get(piece, ())
                if (value ^ other).bit_count() <= self.most_bits
            }
            for take in found:
                counts[take] = counts.get(take, 0) + 1
        if not counts:
            return "", 0.0
        take = min(counts, key=lambda name: (-counts[name], name))
        return take, counts[take] / len(hashes)

"""A run followed chunk by chunk: its pieces are kept, and each is told of as soon as it is there."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator
from typing import Any

from bvjax.denoiser.watch import Watch
from bvjax.generate.chunk_memory import chunk_memory
from bvjax.loading.bundle import Bundle
from bvjax.runs.execute import Progress, execute
from bvjax.runs.prefix import Encoding
from bvjax.runs.run_dir import RunDir
from bvjax.studio.chunk_store import ChunkStore, piece_frames


@dataclasses.dataclass(frozen=True)
class Event:
    """Something to tell pages: JSON, and for pictures bytes.

    With `run` it goes to those who watch that run, without to all.
    """

    message: dict[str, Any]
    run: str | None = None
    payload: bytes = b""


Tell = Callable[[Event], None]


def follow(
    run: RunDir, bundle: Bundle, store: ChunkStore, tell: Tell, watch: Watch | None = None
) -> Generator[Progress, None, None]:
    """Makes what a run lacks, as `execute`; yields each chunk after it was told of.

    What is measured of a chunk is told one chunk later, when the device has had time for it.

    Args:
        watch: is told of each step.
    """
    waiting: Progress | None = None
    key = ""
    for progress in execute(run, bundle, watch=watch):
        if waiting is not None:
            tell_drift(run, store, key, waiting, tell)
            waiting = None
        if isinstance(progress, Encoding):
            text = f"reading the video, latent frame {progress.done} of {progress.total}"
            tell(Event({"type": "note", "run": run.path.name, "text": text}, run.path.name))
            continue
        key = tell_chunk(run, store, progress, tell)
        if progress.drift is not None:
            waiting = progress
        yield progress
    if waiting is not None:
        tell_drift(run, store, key, waiting, tell)


def tell_chunk(run: RunDir, store: ChunkStore, progress: Progress, tell: Tell) -> str:
    """Keeps the piece and the facts of a chunk and tells of them; returns its key."""
    made, settings, number = time.time(), run.settings, progress.chunk
    key = store.keys(run.path, settings, run.grid)[number]
    facts = store.facts(key)
    piece = store.piece(key)
    if piece is None:
        piece = store.put(key, progress.frames, settings.model.chunk.fps, settings.scale)
    if number > 0 and progress.report is not None and "retrieved" not in facts:
        memory = chunk_memory(progress.report, settings.model, run.grid)
        facts["retrieved"] = [
            {"chunk": entry.chunk, "role": entry.role, "score": round(entry.score, 4)}
            for entry in memory.retrieved
        ]
        kept = [share for share in memory.kept_ratio if share > 0]
        facts["kept"] = round(sum(kept) / len(kept), 4) if kept else 0.0
    if progress.fresh:
        facts["took"] = round(sum(progress.seconds.values()), 2)
    store.put_facts(key, facts)
    message = chunk_message(run.path.name, run, number, key, facts)
    tell(Event({**message, "fresh": progress.fresh, "made": made}, run.path.name, piece))
    return key


def tell_drift(run: RunDir, store: ChunkStore, key: str, progress: Progress, tell: Tell) -> None:
    """Keeps what was measured of a chunk and tells of it; waits for the device."""
    assert progress.drift is not None
    if "drift" in store.facts(key):
        return
    measured = progress.drift()
    drift = {
        "clarity": round(measured.clarity, 2),
        "motion": round(measured.motion, 4),
        "saturation": round(measured.saturation, 4),
        "colour": [round(level, 1) for level in measured.colour],
        "seam": None if measured.seam is None else round(measured.seam, 3),
    }
    store.put_facts(key, {"drift": drift})
    name = run.path.name
    tell(Event({"type": "drift", "run": name, "chunk": progress.chunk, "drift": drift}, name))


def chunk_message(name: str, run: Any, number: int, key: str, facts: dict) -> dict[str, Any]:
    """The message that tells a page of a piece: `run` has a grid and settings (an open run, or a `Version`)."""
    start, stop = piece_frames(run.grid, number)
    fps = run.settings.model.chunk.fps
    return {
        "type": "chunk",
        "run": name,
        "chunk": number,
        "key": key,
        "start": start / fps,
        "length": (stop - start) / fps,
        "fps": fps,
        "facts": facts,
    }

"""report.json and report.png of a run."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import UInt8

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.denoiser.types import ChunkReport
from bvjax.generate.chunk_memory import chunk_memory
from bvjax.runs.report import drift_report, report_picture
from bvjax.runs.run_dir import RunDir

MANY_CLIPPED = 0.5  # of all writes: from there on the capacity decides, not tau


def capacity_warning(report: dict[str, Any], model: ModelConfig) -> str | None:
    """A warning where most writes to the bank kept less than `memory.tau` asks for; None elsewhere."""
    share, memory = report["clipped_share"], model.memory
    if share <= MANY_CLIPPED:
        return None
    whole = ChunkGrid.of(model).tokens_per_chunk
    return (
        f"{share:.0%} of the writes to the memory were clipped: memory.tau={memory.tau:g} asks for more than the "
        f"{memory.capacity} rows of a slot, so memory.capacity decides what is kept ({report['coverage']:.0%} of the "
        f"importance on average). A slot of a whole chunk is memory.capacity={whole}; memory.offload=host keeps "
        "the bank in the host's memory"
    )


class RunReport:
    """Gathers what report.json and report.png need, chunk by chunk."""

    def __init__(self, run: RunDir):
        self.run = run
        self.last, self.frames = None, 0
        self.drift: dict[int, Callable[[], drift_report.ChunkDrift]] = {}
        self.memory: dict[int, dict[str, Any]] = {}
        self.stills: list[np.ndarray] = []

    def add(
        self,
        number: int,
        frames: UInt8[np.ndarray, "f h w 3"],
        report: ChunkReport | None,
        seconds: dict[str, float],
    ) -> None:
        """Measures chunk `number` (0: the anchor, which only is what came before).

        Does not wait for the device, which may be busy with the next chunk.
        """
        if number > 0:
            self.drift[number] = drift_report.measure_later(frames, self.last)
            self.memory[number] = {
                "frames": [self.frames, self.frames + len(frames)],
                **self._memory(report),
                "seconds": {part: round(value, 3) for part, value in seconds.items()},
            }
            self.stills.append(frames[len(frames) // 2])
        self.last, self.frames = frames[-1], self.frames + len(frames)

    def save(self) -> None:
        """Writes report.png, then report.json."""
        run, chunk = self.run, self.run.settings.model.chunk
        header = {
            "title": run.title,
            "seed": run.settings.seed,
            "rerolls": self._rerolls(),
            "loras": self._loras(),
            "cuts": list(run.settings.cuts),
            "chunks_done": len(self.drift),
            "chunks_wanted": len(run.captions),
            "chunks_given": run.settings.video_chunks,
            "tau": run.settings.model.memory.tau,
            "video": {
                "frames": self.frames,
                "seconds": self.frames / chunk.fps,
                "fps": chunk.fps,
                "height": chunk.height,
                "width": chunk.width,
            },
        }
        drift = {number: measured() for number, measured in self.drift.items()}
        report = drift_report.report(run.captions, drift, self.memory, header)
        name = run.title or run.path.name
        subtitle = f"{self.frames / chunk.fps:.0f} s  ·  seed {run.settings.seed}"
        subtitle += "".join(f", {seed} from chunk {first} on" for first, seed in self._rerolls())
        if warning := capacity_warning(report, run.settings.model):
            logging.warning(warning)
        run.save_bytes("report.png", report_picture.draw(report, self.stills, name, subtitle))
        run.save_json("report.json", report)

    def _rerolls(self) -> list[list[int]]:
        """[number of a chunk, the seed from there on] of what was made again with another seed."""
        return [[self.run.number_of(first), seed] for first, seed in self.run.settings.rerolls]

    def _loras(self) -> list[dict[str, Any]]:
        """The LoRAs: file, hash, and [number of a chunk, strength from there on] of each."""
        settings = self.run.settings
        return [
            {
                "file": pathlib.PurePath(file).name,
                "sha256": sha256,
                "strengths": [
                    [max(1, self.run.number_of(first)), strengths[i]]
                    for first, strengths in settings.lora_strengths
                ],
            }
            for i, (file, sha256) in enumerate(
                zip(settings.lora_files, settings.lora_sha256, strict=True)
            )
        ]

    def _memory(self, report: ChunkReport) -> dict[str, Any]:
        memory = chunk_memory(report, self.run.settings.model, self.run.grid)
        retrieved = [
            {"chunk": entry.chunk, "role": entry.role, "score": round(entry.score, 4)}
            for entry in memory.retrieved
        ]
        return {
            "retrieved": retrieved,
            "kept_ratio": list(memory.kept_ratio),
            "clipped": [float(clipped) for clipped in memory.clipped],
            "coverage": list(memory.coverage),
        }

"""The table of what `chunk_parts` has measured."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping

import jax

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from experiments.benchmarks import metrics, work
from experiments.benchmarks.clock import device_gigabytes, peak_gigabytes


@dataclasses.dataclass
class Measured:
    """Seconds of each part of each chunk (0: the first frame), and what belongs to them."""

    model: ModelConfig
    chunks: list[dict[str, float]]
    text: float | None
    retrieve: float
    context_rows: float
    compile: Mapping[str, float]
    mp4: bool

    @property
    def first_frame(self) -> int:
        """Chunks of `chunks` that are the first frame: 1 or 0."""
        grid = ChunkGrid.of(self.model)
        return len(grid.piece_ids) - len(grid.chunk_ids)

    def steady(self) -> dict[str, float]:
        """Median seconds of each part, of the chunks behind the first one."""
        rows = self.chunks[self.first_frame :]
        rows = rows[1:] or rows
        return {part: statistics.median(row[part] for row in rows) for part in rows[0]}

    def first_latency(self) -> float:
        """Seconds until the first chunk is on disk, compilation apart."""
        return (self.text or 0.0) + sum(
            sum(c.values()) for c in self.chunks[: self.first_frame + 1]
        )

    def frames(self) -> int:
        """Pixel frames of all chunks."""
        count = len(self.chunks) - self.first_frame
        return ChunkGrid.of(self.model, count).num_frames

    def whole(self) -> float:
        """Seconds of the whole video with a caption for each chunk, compilation apart."""
        captions = len(self.chunks) - self.first_frame
        return sum(sum(chunk.values()) for chunk in self.chunks) + captions * (self.text or 0.0)


def report(result: Measured, peak: float, peak_name: str) -> str:
    """The tables; `peak` FLOP/s is what shares are of."""
    model, seconds = result.model, result.steady()
    grid, chunk = ChunkGrid.of(model), model.chunk
    tokens, rows = grid.tokens_per_chunk, result.context_rows
    operations = {
        "denoise": work.denoise_chunk(model, tokens, rows),
        "write memory": work.write_chunk(model, tokens, rows),
    }
    if result.text is not None:
        operations["text"] = work.text_encoder(model)
    if "decode" in seconds:
        operations["decode"] = work.vae_decode(model, grid.latents_per_chunk, first=False)
    names = {
        "text": "text, one caption",
        "denoise": f"denoise, {model.sampler.steps} steps x {work.branches(model)} branches",
        "write memory": "write memory (clean pass, entry)",
        "decode": "decode, uint8 on the host",
        "write mp4": "write mp4 (H.264)",
    }
    total = sum(seconds.values())
    lines = [
        f"{model.name}: {chunk.height}x{chunk.width}, {chunk.frames} frames a chunk, {tokens} tokens, "
        f"{rows:.0f} rows of memory seen, {model.dit.num_layers} layers, {model.dit.dtype} matmuls.\n",
        f"| part of a chunk | seconds | share | operations | a second | of {peak_name} |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    parts = ([("text", result.text)] if result.text is not None else []) + list(seconds.items())
    for part, took in parts:
        share = f"{took / total:.0%}" if part in seconds else "once"
        cells = [names[part], f"{took:.3f}", share]
        if part == "write mp4" and not result.mp4:
            cells[1:] = ["PyAV is missing", ""]
        if part in operations:
            rate = operations[part] / took
            cells += [work.in_words(operations[part]), work.in_words(rate), f"{rate / peak:.1%}"]
        lines.append(f"| {' | '.join(cells + [''] * (6 - len(cells)))} |")
    lines.append(
        f"| retrieve and assemble alone (part of denoise) | {result.retrieve:.4f} | | | | |"
    )
    mfu = (operations["denoise"] + operations["write memory"]) / (
        seconds["denoise"] + seconds["write memory"]
    )
    kinds = ", ".join(f"{name} {s:.1f}" for name, s in result.compile.items())
    steady = chunk.frames / total
    _note(model, steady, mfu / peak, result, peak_name)
    count, device = len(result.chunks) - result.first_frame, device_gigabytes()
    memory = f"{peak_gigabytes():.2f} GB of the process"
    if device is not None:
        memory += f", {device:.1f} GB of the device"
    lines += [
        "",
        f"- steady: {steady:.3g} frames/s, {total:.3f} s a chunk of {chunk.frames / chunk.fps:g} s",
        f"- MFU of denoising and writing the memory: {mfu / peak:.1%} of {peak_name} "
        f"({work.in_words(peak)} a second)",
        f"- first chunk on disk after {result.first_latency():.2f} s, compilation apart; "
        f"{count} chunks, {result.frames()} frames, in {result.whole():.1f} s",
        f"- compilation, s: {kinds}; {sum(result.compile.values()):.1f} in all",
        f"- most memory: {memory}",
    ]
    return "\n".join(lines)


def _note(model, steady, mfu, result, peak_name) -> None:
    size = f"{model.name} {model.chunk.height}x{model.chunk.width}"
    full_size = jax.default_backend() != "cpu" and model.dit.dim >= 1536
    if "decode" in result.steady():
        target = 20 if full_size and model.name == "self-forcing" else None
        metrics.note(f"{size}, steady with decoding", steady, "frames/s", target)
    target = 45 if full_size and model.name == "wan-1.3b" else None
    metrics.note(f"{size}, chunk step MFU of {peak_name}", 100 * mfu, "%", target)
    if model.name == "mini" and result.frames() == 481:
        metrics.note("mini, a minute", result.whole(), "s", 60)

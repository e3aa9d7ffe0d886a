"""Generation from Python: `load` gives a `Pipeline`, which makes a `Video`, or its `Chunk`s one by one.

The command line makes its runs through the same `load`, `Pipeline.create_run` and `execute`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Unpack

import numpy as np
from absl import logging
from jaxtyping import Bool

from bvjax import policies
from bvjax.config import ModelConfig
from bvjax.generate.checks import check_model
from bvjax.generate.chunk_memory import chunk_memory
from bvjax.loading import bundle as bundles
from bvjax.loading.bundle import Bundle
from bvjax.loading.loras import Given
from bvjax.overrides import assignments
from bvjax.placement import check_layout, layout_of
from bvjax.presets import PRESETS
from bvjax.runs.branch import branch
from bvjax.runs.create import create_run
from bvjax.runs.execute import Progress, execute, is_finished
from bvjax.runs.fit import check_weights
from bvjax.runs.kept_tokens import kept_tokens
from bvjax.runs.redo import redo
from bvjax.runs.requests import Options, checked, whole_numbers
from bvjax.runs.run_dir import RunDir
from bvjax.runs.video import Chunk, Video
from bvjax.story import Story, as_story

Path = str | pathlib.Path
Captions = Story | Path | Mapping | Sequence[str]


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Weights with the configuration that videos are made with; nothing in it changes."""

    bundle: Bundle = dataclasses.field(repr=False)
    model: ModelConfig
    overrides: tuple[str, ...] = ()  # "section.key=value", which made `model` of the weights' own

    def generate(
        self, story: Captions, *, out: Path | None = None, **options: Unpack[Options]
    ) -> Video:
        """Makes a video, or goes on with the very same one in the run folder `out`.

        Args:
            story: captions, one per chunk or with times: a list, a mapping, a `Story`, or a file
                ending in .json. Other text is a prompt, the caption of all `chunks`.
            out: the run folder, as the command line writes it: latents, video.mp4, report. None
                leaves nothing on disk.
            seed: another seed, another video.
            steps: of the solver for a chunk; None leaves the configuration's.
            chunks: only so many of the story's; with a prompt how many, by default 1.
            image: the first frame: a file, a picture or an array.
            video: a file whose end becomes the first chunks, described by the first captions.
            video_chunks: how many of it; None takes all that leave one to generate.
            video_part: "end" (the default) or "start" of that file.
            lora_at: strengths of the LoRAs from a chunk on, by its number: {1: 1.0, 4: 0} switches one off for
                chunk 4 and those after it; of several, {4: (0, 0.5)}. Nothing is compiled again.
            scale: whole factor by which video.mp4 in `out` is enlarged; None makes it watchable.

        Raises:
            UserError: something in this does not fit; nothing has been made then.
            WorkError: what was made is not finite.
        """
        run, folder = self._new_run(story, out, options)
        return self._gather(run, folder)

    def stream(
        self, story: Captions, *, out: Path | None = None, **options: Unpack[Options]
    ) -> Iterator[Chunk]:
        """Makes a video as `generate` does, and yields each chunk as soon as it is finished.

        Memory does not grow with the length of the video. Everything is checked in the call; close
        the iterator to stop before the end, and go on later with the same call where `out` is given.
        """
        run, folder = self._new_run(story, out, options)
        chunks = self._chunks(run, folder)
        weakref.finalize(chunks, run.close)  # also of one that nobody has begun with
        return chunks

    def resume(self, path: Path) -> Video:
        """Goes on with a run folder to its end; what is finished is read, not made again.

        Raises `UserError` as `generate` does, and when the run began with other weights or LoRAs.
        """
        return self._gather(self._open(path))

    def redo(
        self,
        path: Path,
        from_chunk: int,
        captions: Mapping[int, str] | None = None,
        seed: int | None = None,
        lora_strengths: float | Sequence[float] | None = None,
        cuts: Mapping[int, bool] | None = None,
    ) -> Video:
        """Makes the chunks of a run folder from number `from_chunk` on again; the old ones go to its archive.

        Args:
            captions: new ones, by chunk number.
            seed: of these chunks; None leaves theirs.
            lora_strengths: of the LoRAs for these chunks, one for each; None leaves theirs. LoRAs of the pipeline
                behind those that the run has come to it.
            cuts: by chunk number whether the chunk begins a shot, {5: True, 3: False}; others stay as they are.

        Raises `UserError` as `resume` does; then nothing is changed.
        """
        counts = whole_numbers(from_chunk=from_chunk, seed=seed)
        with self._open(path, further=lora_strengths is not None) as run:
            reopened = redo(
                run,
                self.bundle,
                edits=captions or {},
                strengths=lora_strengths,
                cuts=cuts,
                **counts,
            )
        return self._gather(reopened)

    def branch(
        self,
        path: Path,
        out: Path,
        from_chunk: int,
        captions: Sequence[str],
        seed: int | None = None,
        lora_strengths: float | Sequence[float] | None = None,
    ) -> Video:
        """Makes another ending of a run folder in the new folder `out`; the beginning is shared on disk.

        Args:
            from_chunk: the first chunk that the branch has of its own.
            captions: of these chunks.
            seed: of these chunks; None leaves the run's.
            lora_strengths: of the LoRAs for these chunks, one for each; None leaves the run's.

        Raises `UserError` as `resume` does, and for a chunk that is not made yet or a folder that is there.
        """
        counts = whole_numbers(from_chunk=from_chunk, seed=seed)
        with self._open(path, further=lora_strengths is not None) as run:
            branched = branch(
                run, self.bundle, out, captions=captions, strengths=lora_strengths, **counts
            )
        return self._gather(branched)

    def kept_tokens(self, path: Path, chunk: int) -> Bool[np.ndarray, "y l h w"]:
        """Returns which tokens of a finished chunk of a run folder each of the y layers kept in the bank.

        Raises `UserError` for a chunk that is not there, or one whose keep set depended on the bank.
        """
        with self._open(path) as run:
            return kept_tokens(run, self.bundle, whole_numbers(chunk=chunk)["chunk"])

    def create_run(self, story: Captions, out: Path, **options: Unpack[Options]) -> RunDir:
        """Checks what `generate` is given and makes its run folder, or opens it again.

        For who follows the run with `execute`; closing it is theirs.
        """
        arguments = checked(options)
        return create_run(
            self.bundle,
            self.model,
            as_story(story, arguments.get("chunks")),
            out,
            overrides=self.overrides,
            **arguments,
        )

    def _new_run(
        self, story: Captions, out: Path | None, options: Options
    ) -> tuple[RunDir, tempfile.TemporaryDirectory | None]:
        """The run in `out`, or in a folder that is deleted in the end."""
        if out is not None:
            return self.create_run(story, out, **options), None
        folder = tempfile.TemporaryDirectory(prefix="bvjax-")
        try:
            return self.create_run(story, folder.name, **options), folder
        except BaseException:
            folder.cleanup()
            raise

    def _open(self, path: Path, further: bool = False) -> RunDir:
        run = RunDir.open(path)
        try:
            check_weights(run, self.bundle, further)
            check_layout(run.settings.model, self.bundle.layout)
        except BaseException:
            run.close()
            raise
        return run

    def _chunks(
        self, run: RunDir, folder: tempfile.TemporaryDirectory | None = None
    ) -> Iterator[Chunk]:
        model = run.settings.model
        if unknown := self.bundle.unknown_words(run.captions):
            logging.warning("this model never saw the words %s", ", ".join(unknown))
        with run, folder or contextlib.nullcontext():
            write_outputs = folder is None and not is_finished(run)
            for progress in execute(run, self.bundle, only_chunks=not write_outputs):
                if isinstance(progress, Progress):
                    memory = None
                    if progress.chunk > 0 and progress.report is not None:
                        memory = chunk_memory(progress.report, model, run.grid)
                    caption = run.captions[max(progress.chunk, 1) - 1]
                    yield Chunk(
                        progress.chunk,
                        caption,
                        progress.frames,
                        progress.latents,
                        memory,
                        progress.fresh,
                        dict(progress.seconds),
                        model.chunk.fps,
                    )

    def _gather(self, run: RunDir, folder: tempfile.TemporaryDirectory | None = None) -> Video:
        grid, chunk = run.grid, run.settings.model.chunk
        frames = np.empty((grid.num_frames, chunk.height, chunk.width, 3), np.uint8)
        latents, memory, stop = [], [], 0
        for piece in self._chunks(run, folder):
            start, stop = stop, stop + len(piece.frames)
            frames[start:stop] = piece.frames
            # A window begins with the end of the one before.
            latents.append(piece.latents[grid.overlap_latents if latents else 0 :])
            memory += [] if piece.memory is None else [piece.memory]
        path = None if folder else run.path
        return Video(frames, np.concatenate(latents), tuple(memory), run.captions, chunk.fps, path)


def load(
    weights: Path = "mini",
    *,
    overrides: Mapping[str, object] | Sequence[str] = (),
    lora: Given | None = None,
    mesh: str | Mapping[str, int] | None = None,
) -> Pipeline:
    """Opens a model for generation. Parameters are read when they are first needed.

    Args:
        weights: the name of a preset whose weights come with bvjax, or a weights folder.
        overrides: changes of the configuration, {"memory.tau": 0.97} or ["memory.tau=0.97"].
        lora: files of changes of the DiT (LoRA, LoHa, LoKr, DoRA), "style.safetensors:0.8" or several, or
            {"style.safetensors": 0.8}; the strength is 1 by default.
        mesh: how several devices share the work, {"data": 2, "context": 4} or "data=2,context=4";
            None chooses.

    Raises:
        UserError: there are no such weights, they are damaged, or something does not fit them.
    """
    preset = isinstance(weights, str) and weights in PRESETS
    folder = bundles.find_weights(weights, None) if preset else bundles.find_weights(None, weights)
    texts = assignments(overrides)
    model = policies.configure(bundles.load_model(folder), texts)
    check_model(model)
    return Pipeline(bundles.load_bundle(folder, layout_of(model, mesh), lora), model, texts)

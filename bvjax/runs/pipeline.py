"""Generation from Python: `load` gives a `Pipeline`, which makes a `Video`, or its `Chunk`s one by one.

The command line makes its runs through the same `load`, `Pipeline.begin` and `session.produce`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
from absl import logging
from jaxtyping import Float, UInt8

from bvjax.config import ChunkConfig, ModelConfig
from bvjax.errors import UserError
from bvjax.generate.checks import check_model, check_scale, whole_numbers
from bvjax.generate.chunk_memory import ChunkMemory, chunk_memory
from bvjax.loading import bundle as bundles
from bvjax.loading.bundle import Bundle
from bvjax.media import video_io
from bvjax.overrides import apply_overrides, assignments
from bvjax.placement import check_layout, choose_layout
from bvjax.presets import PRESETS
from bvjax.runs import session
from bvjax.runs.run_dir import RunDir
from bvjax.sharding import Layout, parse_mesh
from bvjax.story import Story, as_story

Path = str | pathlib.Path
Captions = Story | Path | Mapping | Sequence[str]
Image = Path | PIL.Image.Image | UInt8[np.ndarray, "h w 3"]


@dataclasses.dataclass(frozen=True, eq=False)
class Chunk:
    """A piece of a video as soon as it is finished."""

    number: int  # 1, 2, ...; 0 is the first frame, where that is made before chunk 1
    caption: str
    frames: UInt8[np.ndarray, "f h w 3"] = dataclasses.field(repr=False)
    latents: Float[np.ndarray, "l h w z"] = dataclasses.field(repr=False)
    memory: ChunkMemory | None = dataclasses.field(repr=False)  # None for number 0
    fresh: bool = True  # False where the run folder had it already
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict, repr=False)


@dataclasses.dataclass(frozen=True, eq=False)
class Video:
    """A finished video.

    Latents are float32, at the scale that the DiT works with; `memory` has an item for each chunk
    from number 1 on.
    """

    frames: UInt8[np.ndarray, "f h w 3"] = dataclasses.field(repr=False)
    latents: Float[np.ndarray, "l h w z"] = dataclasses.field(repr=False)
    memory: tuple[ChunkMemory, ...] = dataclasses.field(repr=False)
    captions: tuple[str, ...]
    fps: int
    path: pathlib.Path | None  # the run folder, where one was asked for

    def save(self, path: Path, scale: int | None = None) -> pathlib.Path:
        """Writes the frames as H.264 to a file that ends in .mp4; returns its path.

        Args:
            scale: whole factor by which the frames are enlarged; None makes them watchable.

        Raises `UserError` for another ending, a scale out of range, or a file that cannot be written.
        """
        path, (height, width) = pathlib.Path(path), self.frames.shape[1:3]
        if path.suffix.lower() != ".mp4":
            raise UserError(f"a video is saved as .mp4, not as {path}")
        scale = video_io.watchable_scale(height, width) if scale is None else scale
        scale = whole_numbers(scale=scale)["scale"]
        check_scale(ChunkConfig(height=height, width=width, fps=self.fps), scale)
        with video_io.VideoWriter(path, self.fps, scale) as writer:
            writer.write(self.frames)
        return path


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Weights with the configuration that videos are made with; nothing in it changes."""

    bundle: Bundle = dataclasses.field(repr=False)
    model: ModelConfig
    overrides: tuple[str, ...] = ()  # "section.key=value", which made `model` of the weights' own

    def generate(
        self,
        story: Captions,
        *,
        out: Path | None = None,
        seed: int = 0,
        steps: int | None = None,
        chunks: int | None = None,
        image: Image | None = None,
        video: Path | None = None,
        video_chunks: int | None = None,
        video_part: str | None = None,
        scale: int | None = None,
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
            scale: whole factor by which video.mp4 in `out` is enlarged; None makes it watchable.

        Raises:
            UserError: something in this does not fit; nothing has been made then.
            WorkError: what was made is not finite.
        """
        run, folder = self._begin(
            story, out, seed=seed, steps=steps, chunks=chunks, image=image, video=video,
            video_chunks=video_chunks, video_part=video_part, scale=scale,
        )  # fmt: skip
        return self._gather(run, folder)

    def stream(
        self,
        story: Captions,
        *,
        out: Path | None = None,
        seed: int = 0,
        steps: int | None = None,
        chunks: int | None = None,
        image: Image | None = None,
        video: Path | None = None,
        video_chunks: int | None = None,
        video_part: str | None = None,
        scale: int | None = None,
    ) -> Iterator[Chunk]:
        """Makes a video as `generate` does, and yields each chunk as soon as it is finished.

        Memory does not grow with the length of the video. Everything is checked in the call; close
        the iterator to stop before the end, and go on later with the same call where `out` is given.
        """
        run, folder = self._begin(
            story, out, seed=seed, steps=steps, chunks=chunks, image=image, video=video,
            video_chunks=video_chunks, video_part=video_part, scale=scale,
        )  # fmt: skip
        made = self._chunks(run, folder)
        weakref.finalize(made, run.close)  # also of one that nobody has begun with
        return made

    def resume(self, path: Path) -> Video:
        """Goes on with a run folder to its end; what is finished is read, not made again.

        Raises `UserError` as `generate` does, and when the run began with other weights.
        """
        return self._gather(self._open(path))

    def redo(
        self,
        path: Path,
        from_chunk: int,
        captions: Mapping[int, str] | None = None,
        seed: int | None = None,
    ) -> Video:
        """Makes the chunks of a run folder from number `from_chunk` on again; the old ones go to its archive.

        Args:
            captions: new ones, by chunk number.
            seed: of these chunks; None leaves theirs.

        Raises `UserError` as `resume` does; then nothing is changed.
        """
        counts = whole_numbers(from_chunk=from_chunk, seed=seed)
        with self._open(path) as run:
            again = session.redo(run, self.bundle, edits=captions or {}, **counts)
        return self._gather(again)

    def begin(
        self,
        story: Captions,
        out: Path,
        *,
        seed: int = 0,
        steps: int | None = None,
        chunks: int | None = None,
        image: Image | None = None,
        video: Path | None = None,
        video_chunks: int | None = None,
        video_part: str | None = None,
        scale: int | None = None,
    ) -> RunDir:
        """Checks what `generate` is given and makes its run folder, or opens it again.

        For who follows the run with `session.produce`; closing it is theirs.
        """
        counts = whole_numbers(
            seed=seed, steps=steps, chunks=chunks, video_chunks=video_chunks, scale=scale
        )
        model, overrides, steps = self.model, self.overrides, counts.pop("steps")
        if steps is not None:
            others = [
                text for text in overrides if text.partition("=")[0].strip() != "sampler.steps"
            ]
            overrides = (*others, f"sampler.steps={steps}")
            model = apply_overrides(model, overrides[-1:])
        return session.begin(
            self.bundle, model, as_story(story, counts["chunks"]), out, image=image, video=video,
            video_part=video_part, overrides=overrides, **counts,
        )  # fmt: skip

    def _begin(
        self, story: Captions, out: Path | None, **options: Any
    ) -> tuple[RunDir, tempfile.TemporaryDirectory | None]:
        """The run in `out`, or in a folder that is deleted in the end."""
        if out is not None:
            return self.begin(story, out, **options), None
        folder = tempfile.TemporaryDirectory(prefix="bvjax-")
        try:
            return self.begin(story, folder.name, **options), folder
        except BaseException:
            folder.cleanup()
            raise

    def _open(self, path: Path) -> RunDir:
        run = RunDir.open(path)
        try:
            session.check_weights(run, self.bundle)
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
            kept = folder is None and not session.is_finished(run)
            for done in session.produce(run, self.bundle, only_chunks=not kept):
                if isinstance(done, session.Progress):
                    memory = None
                    if done.chunk > 0 and done.report is not None:
                        memory = chunk_memory(done.report, model, run.grid)
                    caption = run.captions[max(done.chunk, 1) - 1]
                    yield Chunk(
                        done.chunk, caption, done.frames, done.latents, memory, done.fresh,
                        dict(done.seconds),
                    )  # fmt: skip

    def _gather(self, run: RunDir, folder: tempfile.TemporaryDirectory | None = None) -> Video:
        grid, chunk = run.grid, run.settings.model.chunk
        frames = np.empty((grid.num_frames, chunk.height, chunk.width, 3), np.uint8)
        latents, memory, stop = [], [], 0
        for made in self._chunks(run, folder):
            start, stop = stop, stop + len(made.frames)
            frames[start:stop] = made.frames
            # A window begins with the end of the one before.
            latents.append(made.latents[grid.overlap_latents if latents else 0 :])
            memory += [] if made.memory is None else [made.memory]
        path = None if folder else run.path
        return Video(frames, np.concatenate(latents), tuple(memory), run.captions, chunk.fps, path)


def load(
    weights: Path = "mini",
    *,
    overrides: Mapping[str, object] | Sequence[str] = (),
    mesh: str | Mapping[str, int] | None = None,
) -> Pipeline:
    """Opens a model for generation. Parameters are read when they are first needed.

    Args:
        weights: the name of a preset whose weights come with bvjax, or a weights folder.
        overrides: changes of the configuration, {"memory.tau": 0.97} or ["memory.tau=0.97"].
        mesh: how several devices share the work, {"data": 2, "context": 4} or "data=2,context=4";
            None chooses.

    Raises:
        UserError: there are no such weights, they are damaged, or something does not fit them.
    """
    preset = isinstance(weights, str) and weights in PRESETS
    folder = bundles.find_weights(weights, None) if preset else bundles.find_weights(None, weights)
    texts = assignments(overrides)
    model = apply_overrides(bundles.load_model(folder), texts)
    check_model(model)
    return Pipeline(bundles.load_bundle(folder, layout_of(model, mesh)), model, texts)


def layout_of(model: ModelConfig, mesh: str | Mapping[str, int] | None) -> Layout:
    """The devices that generate: as `mesh` says, or as fits best; raises `UserError`."""
    if mesh is None:
        return choose_layout(model)
    text = mesh if isinstance(mesh, str) else ",".join(f"{axis}={n}" for axis, n in mesh.items())
    return choose_layout(model, parse_mesh(text))

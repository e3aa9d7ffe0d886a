"""The studio in plain calls: runs begun, changed, branched, deleted, described."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
from concurrent.futures import Future
from typing import Any

from bvjax import policies
from bvjax.errors import UserError
from bvjax.files import read_json_object
from bvjax.generate.checks import check_model
from bvjax.loading.bundle import Bundle
from bvjax.loading.preview_decoder import load_preview_decoder
from bvjax.runs.branch import branch
from bvjax.runs.create import create_run
from bvjax.runs.pipeline import Pipeline
from bvjax.runs.redo import redo, rewrite_coming, switch_coming
from bvjax.runs.run_dir import RunDir
from bvjax.story import Story, parse_story
from bvjax.studio import choices, protocol
from bvjax.studio.deletion import branches_of, check_delete, delete
from bvjax.studio.hub import Hub
from bvjax.studio.jobs import Jobs
from bvjax.studio.lora_library import LoraLibrary
from bvjax.studio.making import Event, chunk_message
from bvjax.studio.uploads import Uploads
from bvjax.studio.versions import HIDDEN, Version, Versions


class Studio:
    """A model, a folder of runs, the queue, and the pages that listen."""

    def __init__(
        self,
        pipeline: Pipeline,
        root: pathlib.Path,
        loras: pathlib.Path | None = None,
        preview_decoder: pathlib.Path | None = None,
    ):
        """Opens a studio over the runs in `root`.

        Args:
            loras: a folder of LoRA files that visitors may switch on.
            preview_decoder: a file of `load_preview_decoder`, for previews.

        Raises:
            UserError: there is no LoRA in the folder, or the decoder does not fit.
        """
        decoder = None
        if preview_decoder is not None:
            decoder = load_preview_decoder(preview_decoder, pipeline.model.vae)
        self.pipeline, self.hub = pipeline, Hub()
        self.versions = Versions(root, pipeline.bundle.sha256)
        self.library = LoraLibrary(pipeline.bundle, loras)
        self.jobs = Jobs(
            pipeline.bundle, self.versions, self.hub.tell, library=self.library, decoder=decoder
        )
        self.uploads = Uploads(root / HIDDEN / "uploads")

    # ---- told ---------------------------------------------------------------------------------
    def about(self) -> dict[str, Any]:
        """The model and the limits, as the page needs to know them."""
        model = self.pipeline.model
        chunk = model.chunk
        return {
            "model": model.name,
            "seconds_per_chunk": chunk.frames / chunk.fps,
            "fps": chunk.fps,
            "width": chunk.width,
            "height": chunk.height,
            "steps": model.sampler.steps,
            "knows_words": self.pipeline.bundle.known_words is not None,
            "most_captions": protocol.MOST_CAPTIONS,
            "longest_caption": protocol.LONGEST_CAPTION,
            "loras": self.library.described(),
            **choices.described(model),
        }

    def words(self, captions: tuple[str, ...]) -> dict[str, Any]:
        """For each caption the words that the model never saw, and how full it is."""
        bundle, limit = self.pipeline.bundle, self.pipeline.model.text.max_length
        return {
            "unknown": [bundle.unknown_words([caption]) for caption in captions],
            "tokens": [bundle.tokenizer.count(caption) for caption in captions],
            "most_tokens": limit,
        }

    def story(self, content: Any) -> dict[str, Any]:
        """A story in any of its forms as a title and one caption per chunk; raises `UserError`."""
        story, chunk = parse_story(content), self.pipeline.model.chunk
        captions = story.chunk_captions(chunk.frames / chunk.fps)
        if len(captions) > protocol.MOST_CAPTIONS:
            raise UserError(
                f"the story has {len(captions)} chunks; at most {protocol.MOST_CAPTIONS}"
            )
        return {"title": story.title, "captions": list(captions)}

    def gallery(self) -> list[dict[str, Any]]:
        """All runs, the newest first."""
        states = self.jobs.states()
        return [
            {**self._summary(version), "now": states.get(version.name)}
            for version in self.versions.all()
        ]

    def _summary(self, version: Version) -> dict[str, Any]:
        found = self.versions.summary(version)
        return {**found, "ours": found["ours"] and self.library.has(version.settings)}

    def described(self, name: str) -> dict[str, Any]:
        """One run with its captions, and what is known of its chunks."""
        version = self.versions.find(name)
        settings, grid = version.settings, version.grid
        keys = self.versions.store.keys(version.path, settings, grid)
        reported = self._reported(version)
        chunks = {}
        for number, key in keys.items():
            facts = {**reported.get(number, {}), **self.versions.store.facts(key)}
            chunks[number] = {"key": key, **facts}
        return {
            **self._summary(version),
            "captions": list(version.captions),
            "given": settings.video_chunks,
            "image": (version.path / "image.png").is_file(),
            "rerolls": [[grid.number_of(first), seed] for first, seed in settings.rerolls],
            "pieces": chunks,
            "first": grid.number_of(grid.piece_ids[0]),
            "first_seconds": (grid.num_frames - settings.model.chunk.frames * len(version.captions))
            / settings.model.chunk.fps,
            "settings": {
                switch.key: choices.value_of(settings.model, switch.key)
                for switch in choices.SWITCHES
            },
            "overrides": list(settings.overrides),
            "video": (version.path / "video.mp4").is_file(),
            "report": (version.path / "report.png").is_file(),
            "loras": [
                {
                    **lora,
                    "strengths": [
                        [max(1, grid.number_of(first)), strength]
                        for first, strength in lora["strengths"]
                    ],
                }
                for lora in self.library.told(settings)
            ],
            "branches": [branch.name for branch in branches_of(self.versions, name)],
            "now": self.jobs.state(name),
        }

    def pieces(self, name: str, have: frozenset[str]) -> list[Event]:
        """The pieces of a run that are there and that a page lacks."""
        version, store = self.versions.find(name), self.versions.store
        keys = store.keys(version.path, version.settings, version.grid)
        store.fill(version.path, version.settings, version.grid, keys)
        found = []
        for number, key in keys.items():
            piece = None if key in have else store.piece(key)
            if piece is not None:
                message = chunk_message(name, version, number, key, store.facts(key))
                found.append(Event({**message, "fresh": False}, name, piece))
        return found

    def still(self, name: str, number: int) -> bytes:
        """A JPEG of the middle of a chunk; raises `UserError` where there is none."""
        version, store = self.versions.find(name), self.versions.store
        keys = store.keys(version.path, version.settings, version.grid)
        if number not in keys:
            raise UserError(f"the run has no chunk {number}")
        found = store.still(keys[number])
        if found is None:
            store.fill(version.path, version.settings, version.grid, keys)
            found = store.still(keys[number])
        if found is None:
            raise UserError(f"chunk {number} has no picture yet")
        return found

    # ---- asked for ----------------------------------------------------------------------------
    def create(self, asked: protocol.NewRun, visitor: str) -> str:
        """Begins a run and puts it into the queue; returns its name. Raises `UserError`."""
        self.jobs.check_room()
        bundle = self.library.bundle_at(asked.loras)
        texts = choices.overrides(self.pipeline.model, asked.settings)
        assignments = (*self.pipeline.overrides, *texts)
        model = policies.configure(bundle.model, assignments)
        check_model(model)
        image = self.uploads.path(asked.image, "image") if asked.image else None
        video = self.uploads.path(asked.video, "video") if asked.video else None
        path = self.versions.reserve(asked.title or asked.captions[0])
        try:
            create_run(
                bundle,
                model,
                Story(asked.captions, title=asked.title),
                path,
                seed=asked.seed,
                image=image,
                video=video,
                video_chunks=asked.video_chunks,
                overrides=assignments,
            ).close()
        except BaseException:
            with contextlib.suppress(OSError):  # nothing is left of what was refused
                shutil.rmtree(path)
            raise
        self.jobs.go(path.name, visitor)
        self.hub.tell(Event({"type": "runs"}))
        return path.name

    def rewrite(self, name: str, asked: protocol.Change) -> Future[None]:
        """Gives chunks to come other captions; a run under way goes on with them."""
        return self._order(
            name,
            lambda run: rewrite_coming(run, self.library.bundle_of(run.settings), asked.captions),
            exclusive=False,
        )

    def switch(self, name: str, asked: protocol.Change) -> Future[None]:
        """Gives chunks to come, from `from_chunk` on, other strengths of LoRAs; a run under way goes on with them."""

        def work(run: RunDir) -> None:
            bundle, strengths = self._switched(run, asked)
            if strengths is not None:
                switch_coming(run, bundle, asked.from_chunk, strengths)

        return self._order(name, work, exclusive=False)

    def take_back(self, name: str, keep: int) -> Future[None]:
        """Takes the chunks after number `keep` out of a run, into its archive, and leaves it paused."""
        self.jobs.pause(name)
        return self._order(
            name,
            lambda run: redo(run, self.library.bundle_of(run.settings), keep + 1, {}).close(),
        )

    def redo(self, name: str, asked: protocol.Change) -> Future[None]:
        """Makes chunks again: `captions` are those from `from_chunk` on."""

        def work(run: RunDir) -> None:
            new = dict(enumerate(asked.captions, start=asked.from_chunk))
            edits = {n: text for n, text in new.items() if run.captions[n - 1 : n] != (text,)}
            bundle, strengths = self._switched(run, asked)
            redo(run, bundle, asked.from_chunk, edits, asked.seed, strengths).close()

        return self._order(name, work)

    def branch(self, name: str, asked: protocol.Change) -> Future[str]:
        """Begins a run that shares the chunks before `from_chunk`; gives its name."""

        def work(run: RunDir) -> str:
            captions = asked.captions or run.captions[asked.from_chunk - 1 :]
            path = self.versions.reserve(asked.title or run.title or run.path.name)
            try:
                bundle, strengths = self._switched(run, asked)
                branch(
                    run, bundle, path, asked.from_chunk, captions, asked.seed, asked.title,
                    strengths,
                ).close()  # fmt: skip
            except BaseException:
                with contextlib.suppress(OSError):
                    shutil.rmtree(path)
                raise
            self.hub.tell(Event({"type": "runs"}))
            return path.name

        self.versions.find(name)
        return self.jobs.order(name, work, exclusive=False)

    def delete(self, name: str, asked: protocol.Deletion) -> Future[None]:
        """Deletes a run for good, after the chunk at work; raises `UserError` for one that others branch from."""
        self.versions.find(name)
        if asked.confirm != name:
            raise UserError(f"confirm must be the name of the run, {name}: it is deleted for good")
        check_delete(self.versions, name, asked.keep_branches)
        self.jobs.pause(name, stop=True)

        def work(run: RunDir) -> None:
            delete(self.versions, run, asked.keep_branches)
            self.jobs.forget(name)
            self.hub.tell(Event({"type": "deleted", "run": name}, name))
            self.hub.tell(Event({"type": "runs"}))

        return self.jobs.order(name, work)

    def _switched(
        self, run: RunDir, asked: protocol.Change
    ) -> tuple[Bundle, tuple[float, ...] | None]:
        """(the model with the LoRAs of a run and those asked for, their strengths; None where none are asked for)."""
        settings, number = run.settings, min(asked.from_chunk, len(run.captions))
        bundle = self.library.bundle_of(settings, list(asked.loras))
        if not asked.loras:
            return bundle, None
        return bundle, self.library.strengths(settings, run.grid.id_of(number), asked.loras)

    def _order(self, name: str, work, exclusive: bool = True) -> Future[None]:
        self.versions.find(name)

        def changed(run: RunDir) -> None:
            work(run)
            self.hub.tell(Event({"type": "changed", "run": name}, name))
            self.hub.tell(Event({"type": "runs"}))

        return self.jobs.order(name, changed, exclusive)

    def _reported(self, version: Version) -> dict[int, dict[str, Any]]:
        """The report of a finished run by chunk, as events say it."""
        try:
            chunks = read_json_object(version.path / "report.json")["chunks"]
            return {
                int(chunk["chunk"]): {
                    "drift": {
                        name: chunk[name]
                        for name in ("clarity", "motion", "saturation", "colour", "seam")
                    },
                    "retrieved": chunk["retrieved"],
                }
                for chunk in chunks
            }
        except (UserError, KeyError, TypeError, ValueError):
            return {}

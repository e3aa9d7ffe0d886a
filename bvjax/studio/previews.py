"""The chunk at work, shown while it is denoised: each step's prediction as a small JPEG."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from bvjax.denoiser.watch import Watch
from bvjax.generate import preview
from bvjax.loading.bundle import Bundle
from bvjax.loading.colours import watch_of
from bvjax.media.video_io import jpeg
from bvjax.runs.run_dir import RunDir
from bvjax.studio.making import Event, Tell

Decoder = Mapping[str, np.ndarray]
SHORTEST = 0.15  # seconds between two previews
QUALITY = 75


class Previews:
    """Tells pages of the steps of the run at work.  One object for the life of the worker: programs hold it."""

    def __init__(self, bundle: Bundle, tell: Tell, decoder: Decoder | None = None):
        """`decoder` is one of `load_preview_decoder`; None takes the map from latents to colours."""
        self._bundle, self._tell, self._decoder = bundle, tell, decoder
        self._watch: Watch | None = None
        self._run: RunDir | None = None
        self._last = 0.0

    def watch(self, run: RunDir) -> Watch | None:
        """The watch for `execute` with which pages see the steps of `run`; None where that cannot be."""
        self._run = run
        if self._watch is None:
            if self._decoder is None:
                text = "fitting the colours of previews, once for these weights"
                name = run.path.name
                self._tell(Event({"type": "note", "run": name, "text": text}, name))
            self._watch = watch_of(self._bundle, self, self._decoder)
        return self._watch

    def rest(self) -> None:
        """Forgets the run: what its last program still tells goes nowhere."""
        self._run = None

    def __call__(self, chunk_id: Any, step: Any, colours: Any) -> None:
        """Called from the runtime's thread; never raises, which would end the program."""
        run, now = self._run, time.monotonic()
        if run is None or now - self._last < SHORTEST:
            return
        self._last = now
        try:
            chunk = run.settings.model.chunk
            picture = preview.still(np.asarray(colours), chunk.height, chunk.width)
            name = run.path.name
            message = {
                "type": "preview",
                "run": name,
                "chunk": int(run.number_of(int(chunk_id))),
                "step": int(step) + 1,
                "steps": run.settings.model.sampler.steps,
            }
            content = jpeg(picture, run.settings.scale, QUALITY)
            self._tell(Event(message, name, content))
        except Exception as error:
            logging.warning("no preview: %s", error)

"""preview.jpg of a run folder: the chunk at work, written again with each step and gone in the end."""

from __future__ import annotations

from typing import Any

import numpy as np
from absl import logging

from bvjax.files import write_atomic
from bvjax.generate import preview
from bvjax.media.video_io import jpeg
from bvjax.runs.run_dir import RunDir

NAME = "preview.jpg"


class PreviewFile:
    """Writes what each step predicts; use it as a context manager, and as the `tell` of a `Watch`."""

    def __init__(self, run: RunDir):
        self._run, self.path = run, run.path / NAME

    def __enter__(self) -> PreviewFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)

    def __call__(self, chunk_id: Any, step: Any, colours: Any) -> None:
        """Called from the runtime's thread; never raises, which would end the program."""
        try:
            chunk = self._run.settings.model.chunk
            picture = preview.still(np.asarray(colours), chunk.height, chunk.width)
            write_atomic(self.path, jpeg(picture, self._run.settings.scale))
        except Exception as error:
            logging.log_first_n(logging.WARNING, "no preview: %s", 1, error)

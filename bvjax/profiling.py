"""A trace of one chunk of a run, for xprof and Perfetto."""

from __future__ import annotations

import pathlib

import jax

HOW_TO_LOOK = """\
a trace of chunk {chunk} is in {folder}
  pip install xprof && xprof --logdir {folder} (then http://localhost:8791), or open its
  *.trace.json.gz at https://ui.perfetto.dev"""


class ChunkTrace:
    """Traces one chunk: the second that is made, whose programs are compiled by then.

    Call `finished` after every chunk.  Where only one is made there is nothing steady to trace.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.chunk: int | None = None  # the one traced
        self._num_fresh, self._tracing = 0, False

    def finished(self, chunk: int, fresh: bool) -> None:
        """Chunk number `chunk` is done; `fresh` if it was made now and not read from disk."""
        if self._tracing:
            self.stop()
            self.chunk = chunk
        self._num_fresh += fresh and chunk > 0  # 0: the first frame, whose programs are others
        if self.chunk is None and self._num_fresh == 1:
            jax.profiler.start_trace(str(self.folder))
            self._tracing = True

    def stop(self) -> None:
        """Ends a trace that is under way."""
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False

    def how_to_look(self) -> str:
        """A few lines for the person who asked for it."""
        if self.chunk is None:
            return "no trace: one needs two chunks that are made now, of which it shows the second"
        return HOW_TO_LOOK.format(chunk=self.chunk, folder=self.folder)

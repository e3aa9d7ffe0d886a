"""A trace of one chunk of a run, or of some steps of a training, for xprof and Perfetto."""

from __future__ import annotations

import dataclasses
import pathlib

import jax

from bvjax.errors import UserError
from bvjax.plain_text import whole_number
from bvjax.stores import AnyPath

HOW_TO_LOOK = """\
a trace of {what} is in {folder}
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
        return HOW_TO_LOOK.format(what=f"chunk {self.chunk}", folder=self.folder)


@dataclasses.dataclass(frozen=True)
class Window:
    """Steps of a training, `first` to `last`, both included."""

    first: int
    last: int

    @staticmethod
    def parse(text: str) -> Window:
        """`100:105` as a window; raises `UserError` for anything else."""
        first, last = (whole_number(part) for part in (*text.split(":", 1), "")[:2])
        if first is None or last is None or not 1 <= first <= last:
            raise UserError(
                f"steps to be traced are FIRST:LAST like 100:105, the first 1 or more, not {text!r}"
            )
        return Window(first, last)


class StepTrace:
    """Traces the steps of a window; each process writes its own files.

    `kept_in` is where they are found afterwards, when that is not `folder`.
    """

    def __init__(self, window: Window | None, folder: pathlib.Path, kept_in: AnyPath | None = None):
        self.folder, self._kept_in = folder, kept_in or folder
        self._window, self._tracing = window, False

    def before(self, step: int) -> None:
        """Step number `step` comes next."""
        window = self._window
        if window is not None and not self._tracing and window.first <= step <= window.last:
            jax.profiler.start_trace(str(self.folder))
            self._tracing = True

    def ends_with(self, step: int) -> bool:
        """Returns whether the trace ends with this step, so that the devices must be done with it."""
        return self._tracing and self._window is not None and step >= self._window.last

    def stop(self) -> None:
        """Ends a trace that is under way."""
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False

    def how_to_look(self) -> str:
        """A few lines for the person who asked for it."""
        assert self._window is not None
        what = f"steps {self._window.first} to {self._window.last}"
        return HOW_TO_LOOK.format(what=what, folder=self._kept_in)

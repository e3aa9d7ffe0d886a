"""The trace of one chunk of a run."""

from unittest import mock

import pytest

from bvjax import profiling
from bvjax.errors import UserError


@pytest.fixture
def calls():
    with mock.patch("jax.profiler") as profiler:
        yield lambda: [name for name, *_ in profiler.method_calls]


def test_the_second_chunk_is_traced(tmp_path, calls):
    trace = profiling.ChunkTrace(tmp_path)
    trace.finished(0, True)  # the first frame
    trace.finished(1, False)  # on disk already
    assert calls() == []
    trace.finished(2, True)
    assert calls() == ["start_trace"]
    for chunk in (3, 4):
        trace.finished(chunk, True)
    trace.stop()
    assert calls() == ["start_trace", "stop_trace"] and trace.chunk == 3
    assert f"chunk 3 is in {tmp_path}" in trace.how_to_look()


def test_one_chunk_has_nothing_steady(tmp_path, calls):
    trace = profiling.ChunkTrace(tmp_path)
    for chunk in (0, 1):
        trace.finished(chunk, True)
    trace.stop()
    assert calls() == ["start_trace", "stop_trace"] and "no trace" in trace.how_to_look()


def test_the_steps_of_a_window_are_traced(tmp_path, calls):
    trace = profiling.StepTrace(profiling.Window.parse("3:5"), tmp_path)
    seen = []
    for step in range(1, 8):
        trace.before(step)
        if trace.ends_with(step):
            trace.stop()
        seen.append(calls())
    assert seen[1] == [] and seen[2] == seen[3] == ["start_trace"]
    assert seen[4] == seen[6] == ["start_trace", "stop_trace"]
    assert f"steps 3 to 5 is in {tmp_path}" in trace.how_to_look()
    late = profiling.StepTrace(profiling.Window(3, 5), tmp_path)
    late.before(5)  # of a run that goes on from step 4
    assert calls()[-1] == "start_trace" and late.ends_with(5)
    profiling.StepTrace(None, tmp_path).before(3)
    assert len(calls()) == 3


@pytest.mark.parametrize("text", ["", "5", "0:3", "5:3", "a:b", "1:2:3", "-1:4"])
def test_what_is_no_window_is_refused(text):
    with pytest.raises(UserError, match="FIRST:LAST like 100:105"):
        profiling.Window.parse(text)

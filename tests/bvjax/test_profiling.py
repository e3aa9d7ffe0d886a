"""The trace of one chunk of a run."""

from unittest import mock

import pytest

from bvjax import profiling


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

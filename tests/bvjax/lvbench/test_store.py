"""Stored scores: what cannot be read is measured again, whatever it holds; nothing leaves the folder."""

import json
import math
import pathlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bvjax.lvbench import runner, store
from bvjax.lvbench.metric import Scores
from bvjax.lvbench.store import Store, score_key
from tests.bvjax.lvbench.clips import Brightness, write_clip


def make_job(folder):
    return runner.MeasurementJob(
        folder / "videos", Store(folder / "out"), [Brightness()], segments=5, weights={}
    )


def measure(job):
    runner.measure(job, runner.NullProgress())
    (result,), pending = runner.collect(job)
    assert not pending and not result.failures
    return result.scores, job.store.pictures(result.video, 5)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    write_clip(folder / "videos" / "a.mkv", np.arange(10, 110, 8))
    scores, pictures = measure(make_job(folder))
    files = {p: p.read_bytes() for p in (folder / "out").rglob("*") if p.is_file()}
    assert {p.suffix for p in files} == {".json", ".npz"} and len(files) == 4
    return folder, files, scores, pictures


def outside(folder):
    return sorted(p for p in folder.rglob("*") if folder / "out" not in (p, *p.parents))


MUTATION = st.one_of(
    st.just(lambda content: b""),
    st.integers(0, 400).map(lambda n: lambda content: content[:n]),
    st.binary(max_size=30).map(lambda new: lambda content: new),
    st.tuples(st.integers(0, 4000), st.sampled_from((b"\0", b"\xff", b"[", b'"', b"x", b",,"))).map(
        lambda t: (
            lambda content: (
                content[: t[0] % len(content)] + t[1] + content[t[0] % len(content) + 1 :]
            )
        )
    ),
    st.sampled_from(["[]", "{}", "null", "5", '{"video": 5}', '{"scores": []}', "[" * 100_000]).map(
        lambda text: lambda content: text.encode()
    ),
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_damaged_file_is_made_again(whole, data):
    folder, files, scores, pictures = whole
    path = data.draw(st.sampled_from(sorted(files)))
    path.write_bytes(data.draw(MUTATION)(files[path]))
    before = outside(folder)
    try:
        result, drawn = measure(make_job(folder))
        json_ = path.suffix == ".json"
        # A byte of a number or a picture can change and leave it one: then it is what stands there.
        assert result.keys() == scores.keys() and len(drawn) == 5
        assert json_ or result == scores
        assert outside(folder) == before
    finally:
        for one, content in files.items():
            one.write_bytes(content)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1", b"\xff\xfe", b'{"key": null, "scores": null}']
)
def test_zero_bytes_end_nothing(whole, content):
    folder, files, scores, pictures = whole
    for path in files:
        path.write_bytes(content)
    assert measure(make_job(folder)) == (scores, pictures)


def test_a_stored_hash_names_no_other_folder(whole):
    folder, files, scores, _ = whole
    (record,) = (p for p in files if p.parent.name == "videos")
    stored = json.loads(files[record])
    stored["video"]["sha256"] = "../../../" + "a" * 55
    record.write_text(json.dumps(stored))
    before = outside(folder)
    assert measure(make_job(folder))[0] == scores and outside(folder) == before


def test_scores_that_are_no_numbers_come_back(tmp_path):
    clip = write_clip(tmp_path / "a.mkv", [9] * 4)
    store = Store(tmp_path / "out")
    video = store.video(clip, clip)
    key = score_key(video, "paper/x", {}, 3, {})
    store.save(video, key, Scores((math.inf, -math.inf, math.nan), math.inf, 4, "why"))
    result = store.load(video, key)
    assert result.chunks[:2] == (math.inf, -math.inf) and math.isnan(result.chunks[2])
    assert (result.whole, result.weight, result.reason) == (math.inf, 4, "why")


def test_every_module_that_measures_is_part_of_the_key():
    root = pathlib.Path(store.__file__).parent
    assert all((root / name).is_file() for name in store.MEASURING)
    folders = {path.parent.name for path in root.glob("*/*.py")}
    assert folders - set(store.MEASURING_FOLDERS) == {"dataset", "report"}
    assert store.MEASURING_FOLDERS == ("nets", "official", "paper")

"""The runner with a metric that is worked out by hand: what is decoded when, kept, and reported."""

import dataclasses
import errno

import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.lvbench import runner
from bvjax.lvbench.batching import Batcher
from bvjax.lvbench.store import Store
from tests.bvjax.lvbench.clips import Brightness, write_clip

LEVELS = np.arange(10, 110, 4)  # 25 frames: 5 segments of 5


class Log:
    """Progress that remembers."""

    def __init__(self):
        self.problems, self.frames, self.videos = [], 0, []

    def count_video(self, video, videos): ...

    def start(self, frames, videos):
        self.total = frames

    def video(self, name):
        self.videos.append(name)

    def advance(self, frames):
        self.frames += frames

    def problem(self, sentence):
        self.problems.append(sentence)


def make_job(folder, out, **changes):
    job = runner.MeasurementJob(folder, Store(out), [Brightness()], segments=5, weights={})
    return dataclasses.replace(job, **changes)


def run(job):
    log = Log()
    runner.measure(job, log)
    assert log.problems or log.frames == log.total
    measured, pending = runner.collect(job)
    assert not pending
    return {m.name: m for m in measured}, log


def test_every_kind_of_file_in_every_folder(tmp_path):
    folder = tmp_path / "videos"
    names = ["a.mp4", "deep/b.mkv", "deep/er/c.AVI", "d.webm", "e.gif"]
    for name in names:
        write_clip(folder / name, LEVELS)
    (folder / "notes.txt").write_text("no video")
    measured_videos, log = run(make_job(folder, tmp_path / "out"))
    assert sorted(measured_videos) == sorted(names) and not log.problems
    expected = LEVELS.reshape(5, 5).mean(1)
    for name, measured in measured_videos.items():
        scores = measured.scores["paper/brightness"]
        exact = name.endswith(("mkv", "AVI"))
        np.testing.assert_allclose(scores.chunks, expected, atol=1e-4 if exact else 20)
        assert measured.video.frames == 25


def test_nothing_is_measured_twice_and_all_that_counts_is_in_the_key(tmp_path, monkeypatch):
    folder, out = tmp_path / "videos", tmp_path / "out"
    write_clip(folder / "a.mkv", LEVELS)
    first, _ = run(make_job(folder, out))
    again, log = run(make_job(folder, out))
    assert log.frames == 0 and again["a.mkv"].scores == first["a.mkv"].scores
    for changed in (
        {"metrics": [Brightness(offset=1.0)]},
        {"segments": 3},
        {"weights": {"paper/brightness": {"net": "another hash"}}},
    ):
        _, log = run(make_job(folder, out, **changed))
        assert log.frames == 25
    write_clip(folder / "a.mkv", LEVELS + 1)
    other, log = run(make_job(folder, out))
    assert log.frames == 25
    assert other["a.mkv"].scores["paper/brightness"].chunks[0] == pytest.approx(19.0, abs=1e-4)


def test_a_run_stopped_half_way_goes_on(tmp_path, monkeypatch):
    folder, out = tmp_path / "videos", tmp_path / "out"
    for i in range(4):
        write_clip(folder / f"{i}.mkv", LEVELS + i)
    decode = runner._VideoMeasurement.decode

    def stopped(self, progress):
        if self.video.name == "3.mkv":
            raise KeyboardInterrupt
        decode(self, progress)

    monkeypatch.setattr(runner._VideoMeasurement, "decode", stopped)
    with pytest.raises(KeyboardInterrupt):
        runner.measure(make_job(folder, out), Log())
    monkeypatch.undo()
    _, log = run(make_job(folder, out))
    assert log.videos == ["3.mkv"]  # those that waited for a batch were finished


def test_what_cannot_be_measured_is_named_and_stops_nothing(tmp_path):
    folder = tmp_path / "videos"
    write_clip(folder / "good.mkv", LEVELS)
    write_clip(folder / "short.mkv", LEVELS[:9])
    (folder / "broken.mp4").write_bytes(b"nothing of the kind")
    cut = write_clip(folder / "cut.mp4", LEVELS)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    measured_videos, log = run(make_job(folder, tmp_path / "out"))
    assert measured_videos["good.mkv"].failures == () and measured_videos["good.mkv"].scores
    (reason,) = measured_videos["short.mkv"].failures
    assert (
        "9 frames" in reason
        and "5 chunks need at least 10" in reason
        and not measured_videos["short.mkv"].scores
    )
    for name in ("broken.mp4", "cut.mp4"):
        assert measured_videos[name].video is None and name in measured_videos[name].failures[0]
    assert len(log.problems) == 3


class Refuses(Brightness):
    """Fails with one video, in one of three places."""

    name = "paper/refuses"

    def __init__(self, where, error):
        super().__init__()
        self.where, self.error = where, error

    def begin(self, video, segments):
        measurement = super().begin(video, segments)
        if video.name == "0.mkv":
            if self.where == "begin":
                raise self.error
            setattr(measurement, self.where, self._fail)
        return measurement

    def _fail(self, *block):
        raise self.error


@pytest.mark.parametrize("where", ["begin", "add", "scores"])
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UserError("its truth does not fit"), "its truth does not fit"),
        (RuntimeError("out of memory\nat 0x1"), "RuntimeError: out of memory"),
    ],
)
def test_what_fails_of_one_video_and_metric_stops_nothing_else(tmp_path, where, error, told):
    folder = tmp_path / "videos"
    for i in range(2):
        write_clip(folder / f"{i}.mkv", LEVELS + i)
    metrics = [Refuses(where, error), Brightness()]
    measured_videos, log = run(make_job(folder, tmp_path / "out", metrics=metrics))
    assert measured_videos["0.mkv"].failures == (f"0.mkv: paper/refuses: {told}",)
    assert list(measured_videos["0.mkv"].scores) == ["paper/brightness"]
    assert len(measured_videos["1.mkv"].scores) == 2 and log.problems == list(
        measured_videos["0.mkv"].failures
    )


def test_a_batch_that_fails_is_told_by_each_of_its_items():
    def refuse(params, x):
        raise ValueError("too large")

    batcher = Batcher(refuse, {}, 2)
    pending = [batcher.submit(np.zeros(3)) for _ in range(3)]
    for item in pending:
        with pytest.raises(ValueError, match="too large"):
            item.value()


def test_a_full_disk_is_not_the_video_s_fault(tmp_path, monkeypatch):
    write_clip(tmp_path / "videos" / "a.mkv", LEVELS)
    job = make_job(tmp_path / "videos", tmp_path / "out")

    def full(*_):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr("bvjax.lvbench.store.write_json", full)
    with pytest.raises(OSError, match="no space"):
        runner.measure(job, Log())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write into"):
        Store(tmp_path / "file").check()


def test_a_video_whose_pictures_change_size(tmp_path):
    """Two files in one, as recordings of calls are."""
    small = write_clip(tmp_path / "small.ts", LEVELS, codec="mpeg2video")
    large = write_clip(tmp_path / "large.ts", LEVELS, (32, 48), codec="mpeg2video")
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "both.avi").write_bytes(small.read_bytes() + large.read_bytes())
    measured_videos, _ = run(make_job(folder, tmp_path / "out"))
    (reason,) = measured_videos["both.avi"].failures
    assert "24x16 to 48x32 at frame" in reason


def test_shards_share_the_videos_and_the_last_one_has_all(tmp_path):
    folder, out = tmp_path / "videos", tmp_path / "out"
    for i in range(5):
        write_clip(folder / f"{i}.mkv", LEVELS + i)
    jobs = [make_job(folder, out, shard=(i, 2)) for i in range(2)]
    log = Log()
    runner.measure(jobs[1], log)
    assert log.videos == ["1.mkv", "3.mkv"]
    assert runner.collect(jobs[1]) == ([], ["part 0 of 2"])
    measured_videos, log = run(jobs[0])
    assert log.videos == ["0.mkv", "2.mkv", "4.mkv"]
    assert [
        m.scores["paper/brightness"].chunks[0] for m in measured_videos.values()
    ] == pytest.approx([18.0 + i for i in range(5)], abs=1e-4)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_scores_do_not_depend_on_the_batch(tmp_path, batch):
    """Batches reach over videos: 25 frames are no multiple of any of these."""
    folder = tmp_path / "videos"
    for i in range(3):
        write_clip(folder / f"{i}.mkv", LEVELS + i)
    measured_videos, _ = run(make_job(folder, tmp_path / "out", metrics=[Brightness(batch)]))
    for i in range(3):
        expected = (LEVELS + i).reshape(5, 5).mean(1)
        chunks = measured_videos[f"{i}.mkv"].scores["paper/brightness"].chunks
        np.testing.assert_allclose(chunks, expected, rtol=1e-6)


def test_no_videos(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        runner.measure(make_job(tmp_path / "nowhere", tmp_path / "out"), Log())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no video \(.mp4"):
        runner.measure(make_job(tmp_path / "empty", tmp_path / "out"), Log())

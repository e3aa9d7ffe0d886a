"""metrics.csv across resumes, new columns and torn rows."""

from __future__ import annotations

import csv

from bvjax.train.metrics import MetricWriter


def read(folder):
    with open(folder / "metrics.csv", newline="") as f:
        return list(csv.DictReader(f))


def test_resume_drops_later_steps_and_appends(tmp_path):
    writer = MetricWriter(tmp_path)
    for step in (1, 2, 3):
        writer.write(step, {"loss": step / 3})
    writer.close()
    writer = MetricWriter(tmp_path, start_step=2)
    writer.write(3, {"loss": 9.0})
    writer.close()
    assert [(r["step"], float(r["loss"])) for r in read(tmp_path)] == [
        ("1", 1 / 3), ("2", 2 / 3), ("3", 9.0),
    ]  # fmt: skip


def test_scalars_of_one_step_share_a_row_and_columns_can_be_added(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.write(1, {"loss": 1.0})
    writer.write(2, {"loss": 2.0})
    writer.write(2, {"psnr": 20.0})
    writer.write(3, {"loss": 3.0})
    writer.close()
    assert read(tmp_path) == [
        {"step": "1", "loss": "1.0", "psnr": ""},
        {"step": "2", "loss": "2.0", "psnr": "20.0"},
        {"step": "3", "loss": "3.0", "psnr": ""},
    ]


def test_a_row_cut_short_by_a_crash_is_dropped(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.write(1, {"loss": 1.0})
    writer.close()
    with open(tmp_path / "metrics.csv", "a") as f:
        f.write("\n")
        f.write("garb")
    writer = MetricWriter(tmp_path, start_step=1)
    writer.write(2, {"loss": 2.0})
    writer.close()
    assert [r["step"] for r in read(tmp_path)] == ["1", "2"]


def test_event_files_hold_the_scalars(tmp_path):
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    writer = MetricWriter(tmp_path)
    writer.write(5, {"loss": 0.25})
    writer.close()
    (path,) = tmp_path.glob("events.out.tfevents.*")
    content, found = path.read_bytes(), []
    while content:
        size = int.from_bytes(content[:8], "little")
        assert int.from_bytes(content[8:12], "little") == masked_crc32c(content[:8])
        event = Event.FromString(content[12 : 12 + size])
        found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
        content = content[16 + size :]
    assert (5, "loss", 0.25) in found

"""metrics.csv across resumes, new columns and torn rows."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

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
        ("1", 1 / 3),
        ("2", 2 / 3),
        ("3", 9.0),
    ]


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


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    content=st.binary(max_size=60)
    | st.text(alphabet='steplo,1\n\r"\0', max_size=60).map(str.encode)
)
def test_whatever_is_in_the_file_the_run_goes_on(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.csv"
        path.write_bytes(b"step,loss\n1,0.5\n" + content)
        for step in (10, 11):
            writer = MetricWriter(Path(folder), start_step=step)
            writer.write(step + 1, {"loss": 2.0})
            writer.close()
        assert [r["step"] for r in read(Path(folder))][-2:] == ["11", "12"]
        path.write_bytes(content)
        MetricWriter(Path(folder)).close()


def test_a_file_that_is_no_table_of_steps_is_set_aside(tmp_path):
    for content in ("loss\n1.0\n", "x" * 200_000 + "\n"):
        (tmp_path / "metrics.csv").write_text(content)
        MetricWriter(tmp_path, start_step=1).close()
        assert (tmp_path / "metrics.csv.damaged").read_text() == content
        assert (tmp_path / "metrics.csv").read_text().strip() == "step"


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

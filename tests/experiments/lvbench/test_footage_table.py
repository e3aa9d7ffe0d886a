"""Rows of single videos and of means, as Markdown."""

from __future__ import annotations

import json

from experiments.lvbench.footage_table import main, number
from tests.bvjax.lvbench.made_up_results import made_up


def test_a_row_per_video_and_one_for_a_mean(tmp_path, capsys):
    paths = []
    for i, content in enumerate((made_up(2), made_up(3, missing=[(1, "official/motion")]))):
        paths.append(tmp_path / f"{i}.json")
        paths[-1].write_text(json.dumps(content))
    assert main([str(paths[0]), "--means", str(paths[1])]) == 0
    head, rule, *rows = capsys.readouterr().out.splitlines()
    assert head == "| video | subject | background | motion | aesthetic | clarity |"
    assert len(rows) == 3 and rows[1].startswith("| `folder/video 001.mp4` (854x480, 61.0 s) |")
    vde = made_up(2)["videos"][1]["scores"]["official/subject"]["vde"]
    assert f"| {number(vde)} |" in rows[1]
    assert rows[2].startswith("| made up (3 videos) | ") and rows[2].count("n = 2") == 1
    other = tmp_path / "other.json"
    other.write_text(json.dumps(made_up(2, suites=("paper",))))
    assert main([str(paths[0]), str(other)]) == 2
    assert "measured different metrics" in capsys.readouterr().err


def test_three_digits():
    assert [number(v) for v in (None, 0.031114, 1.0, 151.2, 0.2)] == [
        "\N{EN DASH}",
        "0.0311",
        "1.00",
        "151",
        "0.200",
    ]

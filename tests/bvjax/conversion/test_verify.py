"""What `--verify` says where PyTorch is not installed; the rest is in tests/torch."""

from __future__ import annotations

import importlib.util

from bvjax.cli import main


def test_it_is_refused_before_anything_is_written(tiny, tmp_path, monkeypatch, capsys):
    missing = {"torch": None, "diffusers": None, "transformers": True}
    monkeypatch.setattr(importlib.util, "find_spec", missing.get)
    command = ["convert", str(tiny.weights), str(tmp_path / "dst"), "--to", "wan", "--verify"]
    assert main(command) == 2
    assert "--verify needs torch, diffusers: run the command with" in capsys.readouterr().err
    assert not (tmp_path / "dst").exists()

"""What does not fit a machine is refused before anything is computed."""

import pytest

from bvjax import cli, machine
from bvjax.errors import UserError
from bvjax.placement import check_memory


def test_a_memory_larger_than_the_device(tiny, tmp_path, capsys):
    words = ["generate", "--weights", str(tiny.weights), "--prompt", "Pip waves."]
    words += ["--out", str(tmp_path / "run"), "--set", "memory.slots=1000000"]
    assert cli.main([*words, "--set", "memory.capacity=1000000"]) == 2
    told = capsys.readouterr().err
    assert "the memory of earlier chunks takes 536,000.1 GB" in told and "the device has" in told
    for name in ("memory.capacity", "memory.slots", "memory.dtype=int8", "memory.offload=host"):
        assert name in told
    assert told.count("\n") == 1 and not (tmp_path / "run").exists()


def test_all_that_is_in_the_bank_is_counted(tiny, monkeypatch):
    """Keys, values and their places in every slot and layer; a second bank, 8 bits with scales."""
    model = tiny.model
    rows = model.dit.num_layers * model.memory.slots * model.memory.capacity
    kept = rows * (2 * 4 * model.dit.dim + 3 * 4)
    for changes, least in (
        ({}, kept),
        ({"guidance": {"bank": "two"}}, 2 * kept),
        ({"memory": {"dtype": "int8"}}, rows * (2 * model.dit.dim + 2 * 4 * model.dit.num_heads)),
    ):
        for offload, place in (("none", "device"), ("host", "host")):
            memory = {"offload": offload} | changes.get("memory", {})
            changed = tiny.variant(**changes | {"memory": memory})
            monkeypatch.setattr(machine, f"{place}_bytes", lambda least=least: int(1.3 * least))
            check_memory(changed)
            monkeypatch.setattr(machine, f"{place}_bytes", lambda least=least: least)
            with pytest.raises(UserError, match=f"the {place} has"):
                check_memory(changed)

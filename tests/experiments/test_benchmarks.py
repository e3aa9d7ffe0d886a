"""The benchmarks run, count right and write down what they found; nothing here looks at a clock."""

from __future__ import annotations

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax import flops, weights
from bvjax.chunking import ChunkGrid
from bvjax.denoiser.context import prepare_context
from bvjax.errors import UserError
from bvjax.nets.dit import WanDiT
from experiments.benchmarks import (
    chunk_parts,
    chunk_parts_table,
    docs,
    everything,
    history,
    inputs,
    metrics,
    models,
    options,
    work,
)

pytestmark = pytest.mark.slow  # runs whole benchmarks
SMALL = everything.TINY[1::2]  # the overrides alone
# What a borrowed machine may lack: none of it may be needed to measure there.
MISSING = (
    "PIL", "array_record", "av", "beartype", "diffusers", "ftfy", "grain", "matplotlib",
    "ml_collections", "sentencepiece", "tensorboardX", "tensorflow_datasets", "tokenizers",
    "transformers",
)  # fmt: skip
NEEDED = ("against_torch", "chunk_work", "everything", "history", "jax_side", "chunk_parts")


@pytest.fixture(scope="module")
def few():
    """Self-Forcing's preset, tiny, and its parameters."""
    return models.load(None, "self-forcing", (*SMALL, "dit.dtype=float32"), ("dit", "vae"))


def test_random_parameters():
    model = models.sized("wan-1.3b", SMALL)
    params = models.random_params(model, "dit")
    shapes = weights.shapes(model, "dit")
    assert jax.tree.map(lambda x: x.shape, params) == jax.tree.map(lambda x: x.shape, shapes)
    kernel = np.asarray(params["blocks"]["ffn"]["0"]["kernel"], np.float32)
    assert abs(kernel.std() * 48**0.5 - 1) < 0.1 and np.abs(kernel[0] - kernel[1]).max() > 0.1
    assert (np.asarray(params["blocks"]["norm3"]["scale"], np.float32) == 1).all()
    with pytest.raises(UserError, match="one of --weights and --preset"):
        models.load("somewhere", "mini", (), ())


@pytest.mark.parametrize("preset", ["wan-1.3b", "self-forcing"])
def test_a_full_memory_leaves_one_slot(preset):
    """So that a chunk can be written again and again, and nothing that it sees goes away."""
    model = models.sized(preset, (*SMALL, "memory.capacity=20"))
    number = inputs.steady_chunk(model)
    bank = inputs.full_state(model, number).bank
    assert int(bank.valid.sum()) == model.memory.slots - 1
    ids = sorted(np.asarray(bank.chunk_id[0, :-1]).tolist())
    assert len(set(ids)) == len(ids) and ids[-1] == number - 1
    assert ids[0] == (0 if model.memory.anchor else number - model.memory.slots + 1)
    anchor = 6 if model.memory.anchor else 18
    assert int(bank.lengths[0, 0, 0]) == anchor and int(bank.lengths[0, 0, 1]) == 18


def test_operations_are_those_of_the_program():
    """With every row of the context there, shapes and rows say the same."""
    model = models.sized("wan-1.3b", (*SMALL, "chunk.first=joined", "memory.anchor=false"))
    number = inputs.steady_chunk(model)
    state, given = inputs.full_state(model, number), inputs.chunk_input(model, number)
    rows = work.context_rows(model, state, given)
    grid = ChunkGrid.of(model)
    assert rows == 4 * grid.tokens_per_chunk
    context = jax.eval_shape(lambda s, g: prepare_context(model, s, g).context, state, given)
    latents = jnp.zeros((1, 1, grid.latents_per_chunk, *grid.latent_size, 16))
    net = WanDiT(model.dit, model.text.dim)
    forward = lambda p, c: net.apply(
        {"params": p}, latents, jnp.ones((1, 1)), jnp.asarray(given.text)[None, None],
        jnp.asarray(grid.positions(grid.latents_per_chunk))[None, None], c,
    )  # fmt: skip
    counted = flops.count(forward, weights.shapes(model, "dit"), context).total()
    assert work.dit_forward(model, grid.tokens_per_chunk, rows) == pytest.approx(counted, rel=1e-6)


@pytest.fixture(scope="module")
def measured(few):
    return chunk_parts.measure(*few, 2, True)


@pytest.mark.slow
def test_stages(measured, tmp_path, monkeypatch):
    monkeypatch.setenv(metrics.VARIABLE, str(tmp_path / "figures"))
    text = chunk_parts_table.report(measured, 1e9, "the ceiling")
    assert len(measured.chunks) == 2 and measured.frames() == 21
    assert measured.context_rows == 6 * 18
    for words in ("| denoise, 4 steps x 1 branches |", "| decode, uint8", "| write mp4", "steady:",
                  "first chunk on disk", "compilation, s: retrieve"):  # fmt: skip
        assert words in text
    noted = [json.loads(line)["name"] for line in (tmp_path / "figures").read_text().splitlines()]
    assert noted == [
        "self-forcing 32x48, steady with decoding",
        "self-forcing 32x48, chunk step MFU of the ceiling",
    ]
    assert measured.mp4 and "PyAV" not in text


def test_the_three_memories(few):
    model = few[0]
    assert history.variant(model, "rolling", 9).retrieval.kind == "rolling"
    full = history.variant(model, "full", 9)
    state, given = inputs.full_state(full, 9), inputs.chunk_input(full, 9)
    assert work.context_rows(full, state, given) == 9 * 18


@pytest.mark.slow
def test_what_a_longer_history_costs(few, tmp_path):
    model = few[0]
    cost = history.costs(model, few[1]["dit"], "full", (2, 3), 1)
    assert cost[3].bank / cost[2].bank == 4 / 3
    table = history.table({"full": cost})
    assert "| full | ms a step |" in table and "| memory | | chunk 2 | chunk 3 |" in table
    history.draw({"full": cost}, tmp_path / "picture.png", "title")
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_sections_of_the_document(tmp_path):
    path = tmp_path / "performance.md"
    path.write_text("# Head\n\nBy hand.\n")
    write = lambda device, name, body: docs.write_section(device, name, body, path)
    write("a CPU", "one", "first")
    write("a GPU", "one", "other")
    write("a CPU", "two", "second")
    write("a CPU", "one", "again")
    text = path.read_text()
    assert text.startswith(
        "# Head\n\nBy hand.\n\n## Measured on a CPU\n\n<!-- measured: a CPU | one"
    )
    order = [text.index(word) for word in ("again", "second", "## Measured on a GPU", "other")]
    assert order == sorted(order) and "first" not in text and text.count("## ") == 2
    write("a GPU", "one", "other")
    assert path.read_text() == text


def test_figures_and_their_targets(tmp_path, monkeypatch):
    metrics.note("nowhere", 1.0, "x")
    monkeypatch.setenv(metrics.VARIABLE, str(tmp_path / "figures"))
    for row in (
        ("speed", 0.5, "x", 0.9),
        ("speed", 1.0, "x", 0.9),
        ("time", 70.0, "s", 60.0),
        ("free", 3.0, "GB", None),
    ):
        metrics.note(*row)
    rows = metrics.table(tmp_path / "figures").splitlines()[2:]
    assert rows == [
        "| speed | 1 x | >= 0.9 x | yes |",
        "| time | 70 s | <= 60 s | no |",
        "| free | 3 GB |  |  |",
    ]


@pytest.fixture
def parts(monkeypatch, tmp_path):
    """Three parts: one that is well, one that fails, one that does not end."""
    (tmp_path / "document.md").write_text("# Head\n")
    monkeypatch.setattr(docs, "PATH", tmp_path / "document.md")
    return (
        everything.Part("well", "this", limit=60, record=True),
        everything.Part(
            "late",
            "timeit",
            ("-n1", "-r1", "-s", "print('begun', flush=True)", "__import__('time').sleep(99)"),
            limit=3,
        ),
        everything.Part("wrong", "timeit", ("-n1", "nothing"), limit=60),
        everything.Part("absent", "no_such_module"),
    )


def test_one_part_that_fails_loses_nothing(parts, tmp_path, capfd):
    text = everything.run(parts, tmp_path / "out", "All")
    outcomes = [line.split(" | ")[-1].strip(" |") for line in text.splitlines()[-4:]]
    assert outcomes[0] == "done" and outcomes[1] == "stopped after its 3 s, see late.log"
    assert outcomes[2].startswith("failed (1)") and outcomes[3].startswith("left out: there is no")
    document = (tmp_path / "out" / "performance.md").read_text()
    assert "Beautiful is better" in document and "| All -->" in document
    assert (tmp_path / "document.md").read_text() == "# Head\n"
    shown = capfd.readouterr().out
    assert "begun" in shown and "NameError" in shown


def test_every_part_has_a_tiny_form():
    """The sizes are legal and every module is there, or will be."""
    for machine in everything.PARTS.values():
        for part in map(everything.tiny, machine):
            words = part.arguments
            overrides = [b for a, b in zip(words, words[1:], strict=False) if a == "--set"]
            if "--preset" in words:
                models.sized(words[words.index("--preset") + 1], overrides)
    limits = [part.limit for part in everything.ACCELERATOR]
    assert sum(limits) < 600


def test_what_a_bare_machine_needs():
    blocked = f"import sys; sys.modules.update(dict.fromkeys({MISSING!r}))"
    wanted = "; ".join(
        f"import experiments.benchmarks.{name}" for name in NEEDED if "torch_c" not in name
    )
    subprocess.run([sys.executable, "-c", f"{blocked}; {wanted}"], check=True, timeout=120)


def test_refusals(capsys):
    assert options.run(chunk_parts.main, ["--preset", "mini", "--weights", "x"]) == 2
    assert options.run(history.main, ["--preset", "no-such"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("error: give one of") and "no-such" in said[1]
    with pytest.raises(SystemExit):
        options.run(chunk_parts.main, ["--preset", "mini", "--chunks", "0"])

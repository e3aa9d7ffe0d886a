"""Whatever stands in the files that are converted: one sentence, and nothing is written or changed.

Files are mutated as text (bytes) and as what they say (values of their JSON).  A mutation may leave a
file as good as it was; then the conversion is one like any other.
"""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from bvjax.cli import main
from bvjax.conversion import pipeline
from bvjax.weights import PARTS

TEXT = "models_t5_umt5-xxl-enc.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
DIT = "diffusion_pytorch_model.safetensors"

VALUES = st.sampled_from([
    None, True, 0, -1, 1, 3, 2.5, 10**9, 10**18, 10**30, 1e300, float("nan"), "", "x", "\ud800", "F8_E8M0",
    "../../x", "a\nb", "x" * 300, [], {}, [0], [1, "x"], [10**12, 0], {"a": {}}, [[[]]],
])  # fmt: skip


@st.composite
def edits(draw):
    """A change of one value of a JSON document, wherever it stands."""
    steps = draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=6))
    kind, value = draw(st.sampled_from(["set", "set", "drop", "name", "turn"])), draw(VALUES)

    def edit(document):
        where, left = document, list(steps)
        while left:
            keys = list(where) if isinstance(where, dict) else range(len(where))
            if not keys:
                break
            key = keys[left.pop() % len(keys)]
            if left and isinstance(where[key], dict | list):
                where = where[key]
                continue
            old = where[key]
            if kind == "turn" and isinstance(old, list):
                where[key] = old[::-1]
            elif kind in ("drop", "name"):
                del where[key]
                if kind == "name" and isinstance(where, dict):
                    where["a\nstranger"] = old
            else:
                where[key] = value
            return document
        return document

    return edit


@st.composite
def blows(draw):
    """A change of the bytes of a file."""
    at, new = draw(st.integers(0, 10**6)), draw(st.binary(min_size=1, max_size=9))
    kind = draw(st.sampled_from(["over", "cut", "in", "empty", "deep"]))

    def blow(content):
        start = at % (len(content) + 1)
        if kind == "deep":
            return b"[" * 100_000
        rest = {"over": content[start + len(new) :], "in": content[start:]}
        return (
            b""
            if kind == "empty"
            else content[:start] + (kind != "cut") * new + rest.get(kind, b"")
        )

    return blow


class AsText:
    """A JSON file."""

    whole = staticmethod(str.encode)
    edit = staticmethod(lambda content, change: json.dumps(change(json.loads(content))).encode())


class AsHeader:
    """The header of a safetensors file."""

    @staticmethod
    def edit(content, change):
        size = int.from_bytes(content[:8], "little")
        header = json.dumps(change(json.loads(content[8 : 8 + size])))
        return AsHeader.whole(header) + content[8 + size :]

    @staticmethod
    def whole(header):
        return len(header.encode()).to_bytes(8, "little") + header.encode()


# Found before; drawn by chance alone they would be met too rarely.
KNOWN = [
    ("index", '{"weight_map": ["part-0.safetensors"]}'),
    ("index", '{"weight_map": 5}'),
    ("index", '{"weight_map": {"token_embedding.weight": 5}}'),
    ("index", '{"weight_map": {"token_embedding.weight": "../dit/part-0.safetensors"}}'),
    ("index", '{"weight_map": {"token_embedding.weight": "a\\nb"}}'),
    ("header of a DiT", '{"a": {"dtype": "a\\nb", "shape": [0], "data_offsets": [0, 0]}}'),
    ("config", '{"num_heads": 0}'),
    ("config", '{"num_heads": 5}'),
    ("config", '{"num_heads": 1000000000}'),
    ("config", "[" * 100_000),
    ("encoder", "[]"),
    ("scheduler", '{"_class_name": ["UniPCMultistepScheduler"]}'),
    (
        "manifest",
        '{"parts": {"text": {"model": {"name": "x", "text": {"num_layers": 1000000000}}}}}',
    ),
    ("weights", '{"made": null, "model": {}}'),
]


def snapshot(folder):
    return {
        path.relative_to(folder).as_posix(): path.is_file() and path.read_bytes()
        for path in folder.rglob("*")
    }


# What is converted (of the folders below), the file that is mutated, and how it is read.
CASES = {
    "header": ("text", TEXT, AsHeader),
    "header of a DiT": ("dit", DIT, AsHeader),
    "header of a VAE": ("vae", VAE, AsHeader),
    "index": ("shards", f"{TEXT}.index.json", AsText),
    "manifest": ("text", "manifest.json", AsText),
    "config": ("dit", "config.json", AsText),
    "scheduler": ("pipeline", pipeline.SCHEDULER, AsText),
    "encoder": ("pipeline", "text_encoder/config.json", AsText),
    "weights": ("ours", "config.json", AsText),
}


@pytest.fixture(scope="module")
def sources(tiny, exported, tmp_path_factory):
    """{name: folder}, each as small as it can be: a conversion takes as long as its parts are many."""
    folder = tmp_path_factory.mktemp("strangers")
    wan, diffusers = exported["wan"], exported["diffusers"]
    kept = {
        "text": [(wan, TEXT), (wan, "manifest.json"), (wan, "google/umt5-xxl/spiece.model")],
        "vae": [(diffusers, "vae/config.json"), (diffusers, VAE)],
        "dit": [(wan, DIT), (wan, "config.json")],
        "pipeline": [
            (diffusers, "text_encoder/model.safetensors"),
            (diffusers, "text_encoder/config.json"),
            (diffusers, pipeline.SCHEDULER),
        ],
        "ours": [
            (tiny.weights, name) for name in ("text.safetensors", "config.json", "tokenizer.model")
        ],
    }
    for name, files in kept.items():
        for root, file in files:
            (folder / name / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / file, folder / name / file)
    tensors = load_file(wan / TEXT)
    where = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(sorted(tensors))}
    (folder / "shards").mkdir()
    for file in set(where.values()):
        save_file({n: x for n, x in tensors.items() if where[n] == file}, folder / "shards" / file)
    (folder / "shards" / f"{TEXT}.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(change=edits())
def test_other_values(case, change, sources, capsys):
    converted(case, CASES[case][2].edit, change, sources, capsys)


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(change=blows())
def test_other_bytes(case, change, sources, capsys):
    converted(case, lambda whole, blow: blow(whole), change, sources, capsys)


@pytest.mark.parametrize("case, text", KNOWN)
def test_what_was_met_before(case, text, sources, capsys):
    form = CASES[case][2]
    assert converted(case, lambda whole, new: form.whole(new), text, sources, capsys) == 2


def converted(case, form, change, sources, capsys):
    """The exit code with the file as `form(content, change)`, when all is as it must be."""
    name, file, _ = CASES[case]
    path = sources / name / file
    whole = path.read_bytes()
    try:
        path.write_bytes(form(whole, change))
        before = snapshot(sources)
        code = main(["convert", str(sources / name), str(sources / "dst" / "new"), "--to", "bvjax"])
        lines = capsys.readouterr().err.splitlines()
        if code == 0:
            made = set(snapshot(sources / "dst/new"))
            assert made - {f"{part}.safetensors" for part in PARTS} <= {
                "config.json",
                "tokenizer.model",
            }
            shutil.rmtree(sources / "dst")
        else:
            assert code in (1, 2)
            assert sum(line.startswith("bvjax: ") for line in lines) == 1
            assert lines[-1].startswith("bvjax: "), lines
        assert snapshot(sources) == before
        return code
    finally:
        path.write_bytes(whole)
        shutil.rmtree(sources / "dst", ignore_errors=True)

"""A weights folder is read as if a stranger had written it: whatever is in it, one sentence."""

import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from json_values import changed, places

from bvjax import console, weights
from bvjax.loading.bundle import find_weights, load_bundle

MANY = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
DEEP = json.loads("[" * 90 + "]" * 90)
HOSTILE = st.one_of(
    st.sampled_from(
        [None, True, 0, 1, 3, 5, -1, 2**31, 10**9, 2**63, 10**30, [], {}, DEEP, "", "x"]
    ),
    st.sampled_from(
        ["float64", "int8", "none", "\0", "\u0301", "é" * 300, [0], [1, 2], [None], [10**9]]
    ),
    st.sampled_from([1e30, -1.5, 0.0, 1e-300, [[1]], [{}], {"dim": 1}, {"stage": 5}]),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
)


@pytest.fixture(scope="module")
def pristine(tiny, tmp_path_factory):
    """A weights folder of the tests' own, and the content of its files."""
    folder = tmp_path_factory.mktemp("strange") / "weights"
    shutil.copytree(tiny.weights, folder)
    for path in folder.glob("*corpus*"):
        path.unlink()
    return folder, {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(autouse=True)
def _traced_once(monkeypatch):
    """Networks are traced once for every configuration of theirs, not for every example."""
    known, trace = {}, weights.shapes

    def shapes(model, part):
        key = (part, getattr(model, part), model.text.dim)
        if key not in known:
            known[key] = trace(model, part)
        return known[key]

    monkeypatch.setattr(weights, "shapes", shapes)


def read(folder) -> None:
    """All that generation reads of a weights folder before it begins, and its tensors."""
    bundle = load_bundle(find_weights(None, folder))
    for part in weights.PARTS:
        assert bundle.params[part]
    bundle.tokenizer.encode(["Pip waves and then walks off to the left."], 4096)
    bundle.unknown_words(["Pip waves"])


def told(pristine, capsys, changes: dict[str, bytes]) -> str:
    """What is said of the folder with some files' content changed; '' when it is taken."""
    folder, content = pristine
    try:
        for name, data in changes.items():
            (folder / name).write_bytes(data)
        code = console.run(lambda: read(folder))
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == content | changes
    finally:
        for path in folder.iterdir():
            if path.name not in content:
                path.unlink()
        for name in changes.keys() & content.keys():
            (folder / name).write_bytes(content[name])
    said = capsys.readouterr().err
    assert code in (0, 1, 2) and bool(code) == bool(said)
    assert said.count("\n") <= 1 and len(said) < 2000
    return said


@MANY
@given(data=st.data())
def test_other_values_in_the_configuration(pristine, capsys, data):
    found = json.loads(pristine[1]["config.json"])
    where = data.draw(st.sampled_from(sorted(places(found), key=str)))
    new = changed(found, where, data.draw(HOSTILE))
    told(pristine, capsys, {"config.json": json.dumps(new).encode()})


@MANY
@given(data=st.data())
def test_other_values_in_the_header_of_tensors(pristine, capsys, data):
    name = f"{data.draw(st.sampled_from(weights.PARTS))}.safetensors"
    content = pristine[1][name]
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    where = data.draw(st.sampled_from(sorted(places(header), key=str)))
    other = st.sampled_from(["F16", "BF16", "F8_E4M3", "I64", "U8", [1], [2**40, 2**40], [0, 0]])
    text = json.dumps(changed(header, where, data.draw(HOSTILE | other))).encode()
    told(pristine, capsys, {name: len(text).to_bytes(8, "little") + text + content[8 + size :]})


@MANY
@given(data=st.data())
def test_damaged_bytes(pristine, capsys, data):
    name = data.draw(st.sampled_from(sorted(pristine[1])))
    content = bytearray(pristine[1][name])
    at = data.draw(st.integers(0, min(len(content), 4096)))
    kind = data.draw(st.sampled_from(["cut", "other", "more", "all"]))
    new = data.draw(st.binary(min_size=1, max_size=16))
    if kind == "cut":
        del content[at:]
    elif kind == "all":
        content = bytearray(new)
    else:
        content[at : at + (len(new) if kind == "other" else 0)] = new
    told(pristine, capsys, {name: bytes(content)})

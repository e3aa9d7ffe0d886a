"""What `curate` and `encode` write passes; what anybody changes in it is told of, in the place where it is."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bvjax.errors import UserError
from bvjax.files import write_json
from bvjax.overrides import apply_overrides
from data_pipelines.curate import Request, curate
from data_pipelines.curation.check_rows import check_manifest, reached, stage_of
from data_pipelines.curation.reviews import Reviews, decision_of
from data_pipelines.curation.settings import Settings
from data_pipelines.curation.stages import NAMES
from data_pipelines.encoded.folder import write_null_text
from data_pipelines.encoded.manifest import FACTS
from data_pipelines.encoded.shards import pack
from data_pipelines.validate import main, validate
from tests.data_pipelines.curation.footage import film, pan, still
from tests.data_pipelines.encoded.test_shards import ROWS, WIDTH, add_film

SET = ("takes.least_seconds=2", "chunks.keyframes=2", "chunks.keyframe_side=32")


def make_latents(root):
    add_film(root, "a.mkv", range(2))
    add_film(root, "b", range(2, 3), "test")
    for side in ("train", "test"):
        pack(root, side, rest=True)
    write_null_text(root, np.zeros((ROWS, WIDTH), np.float32))
    write_json(root / "settings.json", {"format": "array_record", "chunks": 2, "dtype": "float16"})
    write_json(root / "manifest.json", dict.fromkeys(FACTS, "x"))
    write_json(root / "split.json", {"seed": 0, "train": ["a.mkv"], "test": ["b", "c"]})
    return root


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """A folder that went through all stages but the encoder, with decisions, and latents made by hand."""
    films, out = tmp_path_factory.mktemp("films"), tmp_path_factory.mktemp("out")
    film(films / "a\n.mkv", pan(1, 56), still(3, 48), pan(2, 16))
    (films / "text.mp4").write_text("no film")
    choose = lambda *more: apply_overrides(Settings(), [*SET, *more])
    curate(Request(films, tiny.weights, out, choose()))
    wanted = [json.loads(line) for line in (out / "captions_wanted.jsonl").read_text().splitlines()]
    file = films / "captions.jsonl"
    file.write_text("".join(json.dumps(w | {"caption": "A fox."}) + "\n" for w in wanted))
    said = {"id": wanted[0]["id"], "verdict": "accept", "caption": "A red fox.", "was": "A fox."}
    Reviews(out).add("ann", decision_of(said))
    Reviews(out).add("ann", decision_of(said))
    Reviews(out).undo("ann")
    curate(Request(films, tiny.weights, out, choose(f"captions.file={file}"), until="review"))
    make_latents(out / "latents")
    return out


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


def rows_of(root):
    return [json.loads(line) for line in (root / "manifest.jsonl").read_text().splitlines()]


def put(root, rows):
    (root / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_what_was_written_passes(made, capsys):
    assert sorted(p.stem for p in (made / "stages").iterdir()) == sorted(NAMES)
    assert main([f"--data={made}"]) == 0
    said = capsys.readouterr().out
    assert "no problems found" in said
    assert (
        "4 rows, 3 chunks, 21 lines of stages, 3 decisions, 2 shards, 2 films, 3 examples" in said
    )
    assert reached(rows_of(made)) == "review"
    latents = made / "latents"
    assert validate(latents) == ([], {"shards": 2, "films": 2, "examples": 3})


@pytest.mark.parametrize("stage", NAMES)
def test_each_stage_is_looked_at(copy, stage):
    """A line of its journal with a field less, and an empty one."""
    path = copy / "stages" / f"{stage}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    entry = next(e for e in lines if any("dropped" not in row for row in e["rows"]))
    row = next(row for row in entry["rows"] if "dropped" not in row)
    del row["sha256"]
    row["film"] = ""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    problems, _ = validate(copy)
    assert {p.location.partition(",")[0] for p in problems} == {f"stages/{stage}.jsonl"}
    assert sorted(p.message for p in problems) == [
        "it has no sha256", "it.film has 0 characters; it must have at least 1"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[0].pop("quality"), "it has no quality"),
        (lambda rows: rows[0].pop("captioned"), "it has no captioned"),
        (lambda rows: rows[0].update(height="96"), "it.height is '96', not of type integer"),
        (lambda rows: rows[0].update(height=0), "it.height is 0; the least is 1"),
        (lambda rows: rows[0].update(more=1), "it has 'more', which is not known"),
        (lambda rows: rows[0].update(stop=0.5), "chunk 0 ends at frame 9, after its take"),
        (lambda rows: rows[0].update(start=9.5), "the take begins at 9.5 s and ends at"),
        (lambda rows: rows[0]["chunks"][1].update(start=3), "chunk 1 has the frames 3 to 17; they must"),
        (lambda rows: rows[0]["chunks"][0].update(id=rows[0]["id"]), None),
        (lambda rows: rows.append(rows[0]), "is there twice"),
        (lambda rows: rows[0]["chunks"][0].update(caption=""), "chunks[0].caption has 0 characters"),
        (lambda rows: rows[0]["chunks"][0].update(keyframes=["../x.jpg"]), "which is not of the form"),
        (lambda rows: rows[0]["chunks"][0].update(keyframes=[f"keyframes/{'0' * 24}/0_0.jpg"]), "is no JPEG file"),
        (lambda rows: rows[-1].update(dropped={"stage": "x"}), "it.dropped has no kind, why"),
        (lambda rows: rows.pop(0), "counts 1 takes; the manifest has 0"),
    ],
)  # fmt: skip
def test_what_is_changed_is_told_of(copy, change, message):
    rows = rows_of(copy)
    change(rows)
    put(copy, rows)
    problems, _ = validate(copy)
    assert any((message or "") in p.message for p in problems) or message is None


def test_files_that_are_none(copy, capsys):
    (copy / "report.json").unlink()
    with open(copy / "manifest.jsonl", "ab") as file:
        file.write(b'{"id": NaN}\n[]\n\xff\n{"torn')
    (copy / "stages" / "cutting.jsonl").touch()
    (copy / "review" / "ann.jsonl").write_text('{"undo": false}\n{"id": "x"}\n')
    assert main([f"--data={copy}"]) == 1
    said = capsys.readouterr().out
    for sentence in (
        "is missing: the last run was not finished",
        "manifest.jsonl, line 5",
        "it is not an object",
        "there is no stage of this name",
        "it.undo is False; it can be True",
        "it has no verdict, reason, caption, was",
    ):
        assert sentence in said
    for folder in (copy / "stages", copy / "nowhere"):
        with pytest.raises(UserError):
            validate(folder)


def test_latents_are_looked_at(copy, capsys):
    root = copy / "latents"
    shard = root / "train" / "00000.array_record"
    content = bytearray(shard.read_bytes())
    content[-20000] ^= 255
    shard.write_bytes(content)
    split = {"train": ["b"], "test": ["b"]}
    write_json(root / "split.json", split)
    write_json(root / "settings.json", {"format": "array_record", "chunks": 3, "dtype": "float32"})
    write_json(root / "manifest.json", {})
    (root / "test" / "00001.array_record").touch()
    found = [f"{p.location}: {p.message}" for p in validate(copy)[0]]
    for sentence in (
        "latents/split.json: 'b' is in train and in test",
        "latents/split.json: 'a.mkv' is in train/00000.json, and not in this file's list",
        "latents/manifest.json: says nothing of text.safetensors",
        "latents/test/00000.array_record: the example 'b/00002' has 2 chunks; settings.json says 3",
        "latents/test/00001.array_record: has no index",
    ):
        assert any(one.startswith(sentence) for one in found), found
    assert any("train/00000.array_record: the example" in one for one in found)
    (root / "test" / "00000.json").write_text('{"format": 2}')
    (root / "null_text.npy").write_bytes(b"")
    shard.unlink()
    found = [p.location for p in validate(root)[0]]
    assert {"test/00000.json", "null_text.npy", "train/00000.array_record"} <= {*found}


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
VALUES |= st.lists(VALUES, max_size=2) | st.dictionaries(st.text(max_size=3), VALUES, max_size=2)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_row_is_good_or_told_of(made, data):
    """Whatever a field is changed to, nothing raises."""
    rows = rows_of(made)
    row = data.draw(st.sampled_from(rows))
    target = data.draw(st.sampled_from([row, *row.get("chunks", ())]))
    target[data.draw(st.sampled_from([*target, "dropped", "chunks"]))] = data.draw(VALUES)
    for problem in check_manifest([("here", row) for row in rows], made):
        assert problem.message and "\n" not in problem.message
    assert isinstance(stage_of(row, "review"), str)

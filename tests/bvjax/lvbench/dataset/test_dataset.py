"""LV-Bench's form: what is read, what is said to be wrong, and the split."""

from __future__ import annotations

import json
import pathlib
import shutil
import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bvjax.errors import UserError
from bvjax.lvbench.dataset import examine
from bvjax.lvbench.dataset.split import split, stored_split
from bvjax.plain_text import shown
from tests.bvjax.lvbench.clips import write_clip

# The form of appendix A.7: fifteen captions of four seconds.
MINUTE = [f"Something happens, part {i} ({4 * i:02d}s - {4 * i + 3:02d}s)." for i in range(15)]
SPANS = tuple((4 * i, 4 * i + 4) for i in range(15))


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[pathlib.Path]:
    """Three different minutes, one picture a second."""
    root = tmp_path_factory.mktemp("clips")
    return [write_clip(root / f"{i}.mkv", [40 * i + 1] * 60, fps=1) for i in range(3)]


@pytest.fixture
def folder(tmp_path, clips) -> pathlib.Path:
    """a.mkv and deep/b.mkv with a file of captions beside each."""
    (tmp_path / "deep").mkdir()
    for clip, name in zip(clips, ("a", "deep/b"), strict=False):
        shutil.copy(clip, tmp_path / f"{name}.mkv")
        write(tmp_path / f"{name}.json", {"captions": MINUTE, "class": "Animals"})
    return tmp_path


def write(path, content):
    path.write_text(json.dumps(content))


def told(folder, **options):
    """{where: [what, ...]}"""
    messages: dict[str, list[str]] = {}
    for problem in examine.validate(folder, **options):
        messages.setdefault(problem.location, []).append(problem.message)
    return messages


def test_captions_beside_their_videos(folder):
    a, b = examine.read(folder)
    assert (a.name, b.name, b.video) == ("a", "deep/b", folder / "deep" / "b.mkv")
    assert a.story.spans == SPANS and a.object_class == "Animals"
    assert a.story.captions[1] == "Something happens, part 1."
    assert told(folder) == {} and examine.lines([]) == ["no problems found"]


@pytest.mark.parametrize("form", ["table", "lines", "named"])
def test_other_forms_say_the_same(folder, form):
    expected = examine.read(folder)
    entry = {"captions": MINUTE, "class": "animals"}
    for name in ("a", "deep/b"):
        (folder / f"{name}.json").unlink()
    if form == "table":
        write(folder / "captions.json", {"a.mkv": entry, "deep/b": entry})
    elif form == "lines":
        rows = [json.dumps({"id": name, **entry}) for name in ("deep/b.mkv", "a")]
        (folder / "captions.jsonl").write_text("\n".join(rows) + "\n\n")
    else:
        write(folder / "a.json", {"a": entry})
        write(folder / "deep" / "b.json", {"whatever": entry})
    assert examine.read(folder) == expected
    assert told(folder) == {}


def change(index, text):
    return [*MINUTE[:index], *([text] if text else []), *MINUTE[index + 1 :]]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"captions": change(3, None)}, ["caption 4 starts at 16s; there is a gap from 12s on"]),
        ({"captions": change(3, "A (11s - 15s).")},
         ["caption 4 starts at 11s and overlaps what goes on to 12s"]),
        ({"captions": change(3, "A (15s - 12s).")},
         ["caption 4 ends at 12s, before it starts at 15s", "caption 5 starts at 16s; there is a gap from 13s on"]),
        ({"captions": change(3, "(12s - 15s).")}, ["caption 4 is empty"]),
        ({"captions": change(14, "A.")}, ['caption 15 has no time range, such as "(00s - 03s)."']),
        ({"captions": [*MINUTE, "A (60s - 60s)."]},
         ["captions go on to 61 s, past the video's end at 60.0 s"]),
        ({"captions": MINUTE[:13]}, ["captions end at 52 s, the video at 60.0 s"]),
        ({"captions": change(3, "\u200b. (12s - 15s).")}, ["caption 4 is empty"]),
        ({"captions": change(14, "A (56 - 59).")},
         ['caption 15: "(56 - 59)" looks like times and cannot be read; write first and last second at '
          'the end, such as "(00s - 03s)", or put it in other words']),
        ({"captions": MINUTE, "class": "Robots"},
         ["the class is 'Robots'; it can be Humans, Animals, Environment"]),
        ({"captions": []}, ["captions has no captions; it needs at least one"]),
        ({"captions": [3]}, ["captions: caption 1 must be text, not a number"]),
        ({"text": "A."}, ['captions has no "captions"']),
    ],
)  # fmt: skip
def test_wrong_captions_are_named(folder, content, what):
    write(folder / "a.json", content)
    assert told(folder) == {"a.json": what}
    past_or_early = "61 s" in what[0] or "52 s" in what[0]  # only decoding tells
    if not past_or_early:
        with pytest.raises(UserError, match="^a.json"):
            examine.read(folder)


def test_names_and_captions_meet_in_either_form(folder):
    """A file name as macOS stores it, and captions with a byte-order mark and other times."""
    (folder / "a.mkv").rename(folder / "e\u0301te\u0301.mkv")
    (folder / "a.json").unlink()
    (folder / "deep" / "b.json").unlink()
    clock = [
        f"[{4 * i // 60}:{4 * i % 60:02d} - {4 * i // 60}:{4 * i % 60 + 4:02d}] A."
        for i in range(14)
    ]
    rows = {
        "\u00e9t\u00e9": {"captions": [*clock, "[0:56 - 1:00] A."]},
        "deep/b": {"captions": MINUTE},
    }
    text = json.dumps(rows, ensure_ascii=False)
    (folder / "captions.json").write_text(text, encoding="utf-8-sig")
    write(folder / "split.json", {"train": ["e\u0301te\u0301.mkv"], "test": ["deep/b"]})
    assert told(folder) == {}
    assert [record.story.spans for record in examine.read(folder)] == [SPANS, SPANS]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.text(max_size=9) | st.sampled_from(("A (0s - 3s)", "\ud83d", "(0:00)", "3")), max_size=3
    )
    | st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=4), max_size=3),
    st.sampled_from(("captions.json", "captions.jsonl", "v.json", "split.json")),
    st.binary(max_size=2),
)
def test_any_file_of_captions_is_read_or_named(tmp_path, content, name, more):
    (tmp_path / "v.mkv").touch()
    for old in tmp_path.glob("*.json*"):
        old.unlink()
    (tmp_path / name).write_bytes(json.dumps(content).encode() + more)
    for problem in examine.validate(tmp_path):
        told = shown(f"{problem.location}: {problem.message}")
        assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in told)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(("v.mkv", name))


def test_what_is_where_without_the_other(folder, clips):
    (folder / "a.json").rename(folder / "c.json")
    write(folder / "notes.json", {"by": "somebody"})  # no captions: nobody's business
    assert told(folder) == {"c.json": ["there is no video c"], "a.mkv": ["has no captions"]}
    write(folder / "captions.json", {"deep/b": {"captions": MINUTE}})
    assert told(folder)["deep/b.json"] == ["deep/b has captions in captions.json: deep/b too"]
    (folder / "captions.json").write_text("{")
    assert told(folder)["captions.json"][0].startswith("cannot be read: ")


def test_wrong_videos_are_named(folder, clips, tmp_path_factory):
    shutil.copy(clips[1], folder / "a.mkv")  # what deep/b is
    whole = clips[2].read_bytes()
    (folder / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    (folder / "text.mp4").write_text("no video")
    write_clip(folder / "short.mkv", [9] * 20, fps=2)
    for name in ("cut", "text", "short"):
        write(folder / f"{name}.json", {"captions": MINUTE[:3] if name == "short" else MINUTE})
    found = told(folder)
    assert found.pop("text.mp4")[0].startswith(f"cannot read the video {folder / 'text.mp4'}")
    assert found["deep/b.mkv"] == ["is the same file as a.mkv"]
    assert found["short.mkv"] == [
        "lasts 10.0 s; it must last at least 50 s",
        "has 20 frames; an evaluation needs at least 30",
    ]
    assert found["short.json"] == ["captions go on to 12 s, past the video's end at 10.0 s"]
    assert "the file is cut short" in found["cut.mkv"][0]
    assert "short.mkv" not in told(folder, shortest=5) or "lasts" not in str(
        told(folder, shortest=5)["short.mkv"]
    )
    text = examine.lines(examine.validate(folder))
    assert text[0] == "cut.mkv" and text[-1].endswith("problems in 5 places")


def test_an_mp4_that_was_cut_off_does_not_pass(tmp_path):
    """Its index still promises a minute, and some decoders stop without a word."""
    import av

    path = write_clip(tmp_path / "a.mp4", range(0, 240, 4), fps=1)
    whole = path.with_name("whole.mp4")
    with av.open(str(path)) as a, av.open(str(whole), "w", options={"movflags": "faststart"}) as b:
        stream = b.add_stream_from_template(a.streams.video[0])
        for packet in a.demux(a.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                b.mux(packet)
    path.write_bytes(whole.read_bytes()[:-600])
    whole.unlink()
    (what,) = told(tmp_path)["a.mp4"]
    assert "should last 60.0 s, but only" in what or what.startswith("cannot read")


def test_a_plain_folder_of_videos_may_be_short_and_bare(tmp_path):
    write_clip(tmp_path / "run" / "video.mkv", [5] * 30)
    write(tmp_path / "run" / "story.json", {"title": "", "captions": ["A.", "B."]})
    write(tmp_path / "results.json", {"videos": []})
    assert told(tmp_path) == {}
    assert told(tmp_path / "run" / "video.mkv") == {}
    write_clip(tmp_path / "few.mkv", [5] * 9)
    assert told(tmp_path) == {"few.mkv": ["has 9 frames; an evaluation needs at least 30"]}


def test_the_split_is_eight_to_two_and_stays():
    names = [f"v{i}" for i in range(1000)]
    output = split(names, seed=3)
    assert len(output["train"]) == 800 and len(output["test"]) == 200
    assert sorted(output["train"] + output["test"]) == sorted(names)
    assert output == split(reversed(names), seed=3) != split(names, seed=4)
    assert split("abcde", 0) == {"train": ["a", "b", "d", "e"], "test": ["c"]}
    kept = set(split([*names, "new"], seed=3)["test"]) & set(output["test"])
    assert len(kept) >= 199


def test_a_stored_split_is_kept_and_checked(folder):
    first = stored_split(folder, seed=1)
    assert stored_split(folder, seed=2) == first and told(folder) == {}
    path = folder / "split.json"
    write(path, {"train": ["a.mkv", "a", "c"], "test": ["a"]})
    assert told(folder) == {
        "split.json": [
            "a is twice in train",
            "a is in train and in test",
            "c is listed, but there is no such video",
            "deep/b is in neither list",
        ]
    }
    with pytest.raises(UserError, match="split.json: a is twice in train"):
        stored_split(folder)
    for content, what in (("[]", "must be"), ("{", "cannot be read")):
        path.write_text(content)
        assert told(folder)["split.json"][0].startswith(what)

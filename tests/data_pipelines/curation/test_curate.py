"""The command from films to examples; what it does again and what not; films that are none; kills and full disks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.files import DISK_FULL
from bvjax.overrides import apply_overrides
from data_pipelines import curate as command_module
from data_pipelines.curate import Request, curate, main
from data_pipelines.curation import run, stages
from data_pipelines.curation.card import terms
from data_pipelines.curation.journal import Journal
from data_pipelines.curation.pool import KILLED, Failed, run_all
from data_pipelines.curation.review_server import Desk
from data_pipelines.curation.rows import is_kept
from data_pipelines.curation.settings import Settings
from data_pipelines.encoded.records import open_records
from data_pipelines.encoded.windows import Take
from tests.data_pipelines.curation.dying import work_or_die
from tests.data_pipelines.curation.footage import barred, film, marked, pan, still, walker

SET = (
    "takes.least_seconds=2",
    "chunks.keyframes=2",
    "chunks.keyframe_side=32",
    "quality.most_watermark=0.25",
)
ODD = "12:30 - a\n#fox.mkv"
NAME = "12:30 - a\\n#fox.mkv"


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    film(folder / ODD, pan(1, 56), walker(2, 48), still(3, 48), barred(pan(4, 48)), pan(5, 16))
    film(folder / "deep/again.mkv", pan(1, 56), marked(pan(6, 90)))
    (folder / "copy.mkv").write_bytes((folder / "deep/again.mkv").read_bytes())
    (folder / "broken.mp4").write_bytes((folder / ODD).read_bytes()[:3000])
    (folder / "text.mp4").write_text("no film")
    (folder / "empty.mp4").touch()
    film(folder / "one frame.mkv", pan(7, 1))
    return folder


def request(tiny, films, out, *changes: str, **more) -> Request:
    settings = apply_overrides(Settings(), [*SET, *changes])
    return Request(films, tiny.weights, out, settings, **more)


@pytest.fixture(scope="module")
def curated(tiny, films, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return out, *curate(request(tiny, films, out))


def decisions(out) -> dict[str, str]:
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    return {row["id"]: row.get("dropped", {}).get("kind", "kept") for row in rows}


def test_each_take_is_decided_upon(curated):
    out, _, films = curated
    assert decisions(out) == {
        f"{NAME}#00000000": "kept", f"{NAME}#00003750": "kept", f"{NAME}#00006750": "too still",
        f"{NAME}#00009750": "letterbox", f"{NAME}#00012750": "too short",
        "copy.mkv#00000000": "same pictures", "copy.mkv#00003750": "watermark",
        "deep/again.mkv#00000000": "same file", "deep/again.mkv#00003750": "same file",
        "broken.mp4": "cannot be read", "text.mp4": "cannot be read", "empty.mp4": "cannot be read",
        "one frame.mkv#00000000": "too short",
    }  # fmt: skip
    kept = [row for rows in films.values() for row in rows if is_kept(row)]
    assert [row["moves"] for row in kept] == ["camera", "subject"]
    assert [len(row["chunks"]) for row in kept] == [3, 2]
    for row in kept:
        for chunk in row["chunks"]:
            assert len(chunk["keyframes"]) == 2
            assert all((out / name).read_bytes()[:2] == b"\xff\xd8" for name in chunk["keyframes"])


def test_the_report_counts(curated):
    out, report, _ = curated
    assert report == json.loads((out / "report.json").read_text())
    by_name = {stage["stage"]: stage for stage in report["stages"]}
    assert [*by_name] == [*stages.NAMES[:8]]  # there are no captions
    assert by_name["probe"]["why"] == {"cannot be read": 3} and by_name["probe"]["films"] == 7
    assert by_name["takes"]["why"] == {"too short": 2}
    assert by_name["duplicates"]["why"] == {"same file": 2, "same pictures": 1}
    assert (report["films"], report["takes"], report["chunks"], report["seconds"]) == (7, 2, 5, 5.0)
    wanted = (out / "captions_wanted.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in wanted][:2] == [
        f"{NAME}#00000000.000",
        f"{NAME}#00000000.001",
    ]


def test_the_card_says_what_it_is_and_whose(curated):
    text = (curated[0] / "README.md").read_text()
    assert (
        text.startswith("---\ntask_categories:")
        and "2 takes of 1 films (of 7 looked at): 5 chunks, 5 s" in text
    )
    assert "| duplicates | 5 | 3 | 2 same file, 1 same pictures |" in text
    assert f"| {NAME} | 2 | not stated |" in text
    rights = {"": "rest", "a/": "folder", "a/b.mp4": "own"}
    assert [terms(n, rights) for n in ("a/b.mp4", "a/c.mp4", "b.mp4")] == ["own", "folder", "rest"]
    assert terms("a|b.mp4", {}) == "not stated"


def test_rights_that_are_none_are_refused(tiny, films, tmp_path):
    (tmp_path / "rights.json").write_text('{"a": 3}')
    film(tmp_path / "a.mkv", pan(1, 2))
    with pytest.raises(UserError, match="rights.json must be"):
        curate(request(tiny, tmp_path, tmp_path / "out"))


def captions_file(out, path, skip=()):
    lines = [json.loads(line) for line in (out / "captions_wanted.jsonl").read_text().splitlines()]
    told = [line | {"caption": "Pip waves."} for i, line in enumerate(lines) if i not in skip]
    path.write_text("".join(json.dumps(line) + "\n" for line in told))
    return path


def no_work(monkeypatch):
    monkeypatch.setattr(run, "work", lambda piece: pytest.fail("it is done already"))


def test_a_second_run_repeats_nothing(curated, tiny, films, monkeypatch):
    out, _, _ = curated
    before = (out / "manifest.jsonl").read_bytes()
    no_work(monkeypatch)
    report, _ = curate(request(tiny, films, out))
    assert (out / "manifest.jsonl").read_bytes() == before
    assert [stage["films"] for stage in report["stages"]] == [0] * 8


def test_another_number_does_its_stage_and_what_follows(curated, tiny, films):
    out, _, _ = curated
    report, _ = curate(request(tiny, films, out, "motion.least=0"))
    redone = {stage["stage"]: stage["films"] for stage in report["stages"]}
    assert redone == {
        "probe": 0, "scenes": 0, "takes": 0, "duplicates": 0, "motion": 7, "quality": 1, "chunks": 1, "keyframes": 1,
    }  # fmt: skip
    assert decisions(out)[f"{NAME}#00006750"] == "kept"
    curate(request(tiny, films, out))
    assert decisions(out)[f"{NAME}#00006750"] == "too still"


def test_where_nothing_is_left_no_captions_are_asked_for(tiny, tmp_path, capsys):
    (tmp_path / "films").mkdir()
    film(tmp_path / "films/short.mkv", pan(7, 1))
    words = ["--videos", f"{tmp_path}/films", "--weights", f"{tiny.weights}"]
    assert main([*words, "--out", f"{tmp_path}/out", "--workers", "1"]) == 0
    assert "no take is left to be captioned" in capsys.readouterr().out


@pytest.mark.slow
def test_films_become_examples(curated, tiny, films, tmp_path, capsys):
    """With captions by hand, one of them missing; then a film is gone on with on the command line."""
    out, _, _ = curated
    file = captions_file(out, tmp_path / "captions.jsonl", skip=(1,))
    words = [f"--videos={films}", f"--weights={tiny.weights}", f"--out={out}", "--workers=0"]
    words += [word for change in SET for word in ("--set", change)] + [
        "--set",
        f"captions.file={file}",
    ]
    assert main(words) == 0
    said = capsys.readouterr()
    assert (
        "text.mp4: cannot read the video text.mp4" in said.err
        and "empty.mp4: the file is empty" in said.err
    )
    assert "latents has examples of 2 chunks: 1 for train, 0 for test" in said.out
    assert decisions(out)[f"{NAME}#00000000.000-000"] == "no caption"
    source = open_records(out / "latents", "train")
    assert source.name_of(0) == f"{NAME}/0000030" and source[0]["latents"].shape == (5, 4, 4, 16)
    assert np.abs(source[0]["latents"]).max() > 0


@pytest.fixture
def encoder(monkeypatch):
    """Stands in for `data_pipelines.encode`; lists what it was given, films and those that are gone."""
    given = []

    def encode(weights, chosen, root, options, gone):
        given.append((chosen, gone))
        return {"films": {}, "examples": {}, "problems": {}}

    monkeypatch.setattr("data_pipelines.encode.encode", encode)
    return given


def test_what_reaches_the_encoder(curated, tiny, films, tmp_path, capsys, encoder):
    """The takes with their places in the film; a caption that is too long is shortened, and said to be."""
    out, _, _ = curated
    file = captions_file(out, tmp_path / "captions.jsonl")
    long = "Pip waves. " * 60
    file.write_text(file.read_text().replace("Pip waves.", long, 1))
    stem = ODD.removesuffix(".mkv").replace("\n", "\\n")
    names = [stem, "deep/again", "copy", "broken", "text", "empty", "one frame"]
    split = {"seed": 0, "train": [], "test": names}
    (films / "split.json").write_text(json.dumps(split))
    asked = request(tiny, films, out, f"captions.file={file}")
    report, rows = curate(asked)
    ((film,), gone) = encoder[-1]
    assert (film.name, film.path.name, film.split, len(film.content)) == (NAME, ODD, "test", 64)
    first, second = film.takes
    assert (
        second == Take(30, ("Pip waves.", "Pip waves."))
        and first.captions[1:] == ("Pip waves.",) * 2
    )
    assert long.startswith(first.captions[0] + " ") and len(first.captions[0].split()) > 10
    assert "copy.mkv" in gone and NAME not in gone
    assert report["stages"][-1]["shortened"] == 1 and report["stages"][-1]["dropped"] == 0
    chunk = next(row for row in rows[NAME] if is_kept(row))["chunks"][0]
    assert chunk["caption"] == first.captions[0] and chunk["whole"] == long.strip()
    command_module.tell(asked, report, rows)
    assert f"{NAME}: a caption was longer than the text encoder takes" in capsys.readouterr().err
    desk = Desk(out).chunks  # a reviewer sees, and judges, all of it
    assert desk[chunk["id"]][1]["caption"] == long.strip()
    (films / "split.json").write_text(json.dumps(split | {"train": ["copy"]}))
    with pytest.raises(UserError, match="copy is in train and in test"):
        curate(asked)
    (films / "split.json").unlink()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--until=cutting"], "--until is 'cutting'; it can be probe, scenes"),
        (["--workers=-1"], "--workers is -1; it can be 0 to 1024"),
        (
            ["--set", "captions.endpoint=localhost"],
            "captions.endpoint is 'localhost'; it must be an address",
        ),
        (["--set", "captions.file=nowhere"], "cannot read captions.file nowhere"),
        (["--set", "scenes.aesthetic=q"], "the option aesthetic is 'q'"),
        (["--videos=nowhere"], "there is no folder nowhere"),
    ],
)
def test_what_is_refused_before_work_begins(tiny, films, tmp_path, capsys, words, message):
    base = [
        f"--videos={films}",
        f"--weights={tiny.weights}",
        f"--out={tmp_path / 'out'}",
        "--workers=0",
    ]
    assert main([*base, *words]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out" / "stages").exists()


def test_ctrl_c_keeps_what_is_done(tiny, films, tmp_path, monkeypatch, capsys):
    whole, calls = run.work, []

    def work(piece):
        calls.append(piece[1][0]["film"])
        if len(calls) == 9:
            raise KeyboardInterrupt
        return whole(piece)

    monkeypatch.setattr(run, "work", work)
    words = [
        f"--videos={films}",
        f"--weights={tiny.weights}",
        f"--out={tmp_path}",
        "--workers=0",
        "--until=scenes",
    ]
    assert main(words) == 130
    assert "the same command again goes on" in capsys.readouterr().err
    assert main(words) == 0
    assert (
        len(calls) == 15 and len(calls) - len(set(calls[7:])) == 8
    )  # 7 films in 2 stages, one of them twice


# ---- the pieces -------------------------------------------------------------------------------------
ROW = {"id": "a", "film": "a", "path": "p"}


def test_a_torn_line_is_done_again_and_damage_is_counted(tmp_path):
    path = tmp_path / "stages" / "s.jsonl"
    with Journal(path) as journal:
        for name in "abc":
            journal.add(name, "1", [ROW | {"film": name}])
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(lines[0] + b"\n" + b'{"film": 3}\n' + lines[2][:20])
    with Journal(path) as journal:
        assert journal.damaged == 1
        assert journal.rows("a", "1") == [ROW] and journal.rows("a", "2") is None
        assert journal.rows("b", "1") is journal.rows("c", "1") is None
        journal.add("c", "2", [ROW])
    assert Journal(path).rows("c", "2") == [ROW]


def test_a_full_disk_leaves_the_journal_whole(tmp_path):
    path = tmp_path / "s.jsonl"
    with Journal(path) as journal:
        journal.add("a", "1", [ROW])
        before, file = path.read_bytes(), journal._file

        class Full:
            def write(self, line):
                file.write(line[:10])
                file.flush()
                raise OSError(DISK_FULL[0], "No space left on device")

            def close(self):
                file.close()

        journal._file = Full()
        with pytest.raises(OSError):
            journal.add("b", "1", [ROW])
    assert path.read_bytes() == before and Journal(path).rows("a", "1") == [ROW]


def test_a_killed_worker_costs_its_piece_alone():
    work = [(name, name) for name in ("a", "b", "die", "c", "raise", "d")]
    found = dict(run_all(work_or_die, work, 2, "processes"))
    assert {name: found[name] for name in "abcd"} == {name: name.upper() for name in "abcd"}
    assert isinstance(found["die"], Failed) and found["die"].why == KILLED
    assert found["raise"].why.startswith("ValueError: odd")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_disk_stops_the_work(workers):
    with pytest.raises(OSError) as error:
        list(run_all(work_or_die, [("full", "full"), ("a", "a")], workers, "threads"))
    assert error.value.errno == DISK_FULL[0]


def test_films_that_failed_are_tried_again(tiny, films, tmp_path, monkeypatch):
    out = request(tiny, films, tmp_path, until="probe")
    with monkeypatch.context() as patch:
        patch.setattr(run, "work", lambda piece: (_ for _ in ()).throw(ValueError("no memory")))
        result, rows = curate(out)
        assert len(result["stages"][0]["failed"]) == 7
        assert command_module.tell(out, result, rows) == 1
    result, rows = curate(out)
    assert not result["stages"][0]["failed"] and result["stages"][0]["films"] == 7

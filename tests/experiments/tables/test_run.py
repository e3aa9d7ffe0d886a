"""Tables are made of files: killed anywhere, the same again goes on, and makes nothing twice."""

from __future__ import annotations

import dataclasses
import html.parser
import json

import numpy as np
import pytest

from bvjax import weights
from bvjax.errors import UserError, WorkError
from bvjax.nets.discriminator import trunk_config
from bvjax.overrides import apply_overrides
from data_pipelines.storyworld import COLOURS, SPECIES, make_story, truth
from experiments import stages
from experiments.evaluation.judge import DEFAULT, HEADS, Judge
from experiments.evaluation.under_test import SPLIT, UnderTest
from experiments.tables import budget, markdown, measuring, page, report, run, training
from experiments.tables.generating import Made
from experiments.tables.rows import TABLES, check_names, table_of
from experiments.tables.run import Work, quietly, read_record
from experiments.tables.settings import Amounts, Arm, arms_of, configured
from experiments.tables.stories import chosen, read_story
from experiments.tables.training import FINISHED, FineTunes

AMOUNTS = Amounts(stories=2, seeds=2, chunks=6, steps=4, updates=0, train_stories=1)
THREE = table_of(
    5, ("Rolling KV", "Dynamic sparse KV, tau 0.98", "Semantic sparse KV, tau 0.98")
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """Weights of the tiny model with chunks as long as those of stories, and room for their captions."""
    path = tmp_path_factory.mktemp("tables")
    changes = ("chunk.fps=2", "text.max_length=200", "memory.slots=16", "build.probe=full")
    model = apply_overrides(tiny.model, changes)
    tokenizer = tiny.weights / "tokenizer.model"
    weights.save_weights(path / "weights", model, tiny.params, tokenizer=tokenizer)
    return path / "weights"


def work_in(out, folder, amounts=AMOUNTS, **changes) -> Work:
    tested = UnderTest.load(folder)
    work = Work(tested, DEFAULT, out, amounts, FineTunes(folder, out, amounts))
    return dataclasses.replace(work, **changes)


class Fake:
    """In place of a generator: grey videos; is killed before video `dies`."""

    def __init__(self, dies: int | None = None):
        self.made, self.dies = [], dies

    def __call__(self, tested):
        return self

    def make(self, params, model, held, seed):
        if len(self.made) == self.dies:
            raise KeyboardInterrupt
        self.made.append((model, held.name, seed))
        frames = np.full((held.frames, 32, 32, 3), seed % 200, np.uint8)
        return Made(frames, 0.5, True, 1000)


def fake_record(made, held, truth, judge, fps):
    score = {"tenths": [1.0] * 10, "vde": float(made.frames[0, 0, 0, 0]), "level": 1.0}
    return {
        "scores": dict.fromkeys(run.SCORES, score), "sharpness": 1.0, "seam": 1.0, "sightings": [],
        "seconds": made.seconds, "warm": made.warm, "memory_bytes": made.memory_bytes,
    }  # fmt: skip


@pytest.fixture
def killed_run(folder, tmp_path, monkeypatch):
    """A work of 12 videos of which five are there, and what made them."""
    monkeypatch.setattr(run, "record_of", fake_record)
    first = Fake(dies=5)
    monkeypatch.setattr(run, "Generator", first)
    with pytest.raises(KeyboardInterrupt):
        work_in(tmp_path, folder).run([THREE], quietly)
    return tmp_path, first


def test_killed_between_videos_it_goes_on(folder, killed_run, monkeypatch):
    out, first = killed_run
    assert len(list(out.glob("cells/*/*-*.json"))) == 5
    work, second = work_in(out, folder), Fake()
    assert len(work.missing([THREE])) == 7
    monkeypatch.setattr(run, "Generator", second)
    work.run([THREE], quietly)
    assert len(second.made) == 7 and not set(first.made) & set(second.made)
    made = [*first.made, *second.made]
    models = {model for model, *_ in made}
    for model in models:  # the same stories and seeds for all rows
        assert {x[1:] for x in made if x[0] == model} == {x[1:] for x in made}
    assert len(models) == 3 and not work.missing([THREE])
    assert all(len(work.records(arm)) == 4 for arm in work.arms(THREE))


def test_larger_numbers_add_and_other_weights_begin_anew(folder, killed_run):
    out, _ = killed_run
    more = dataclasses.replace(AMOUNTS, stories=3)
    assert len(work_in(out, folder, more).missing([THREE])) == 18 - 5
    work = work_in(out, folder)
    other = dataclasses.replace(work.tested, sha256=work.tested.sha256 | {"vae.safetensors": "f"})
    assert len(dataclasses.replace(work, tested=other).missing([THREE])) == 12


def test_rows_that_are_the_same_share_their_videos(folder, tmp_path):
    """BlockVid and semantic sparse KV with tau 0.98 are one configuration when the model's own tau is that."""
    work = work_in(tmp_path, folder)
    work = dataclasses.replace(work, tested=UnderTest.load(folder, ("memory.tau=0.98",)))
    blockvid = table_of(2, ("BlockVid",))
    ours = table_of(5, ("Semantic sparse KV, tau 0.98",))
    assert len(work.missing([blockvid, ours])) == len(work.missing([ours])) == 4


def test_a_damaged_result_is_refused(tmp_path):
    path = tmp_path / "1.json"
    path.write_text(json.dumps({"scores": {}}))
    with pytest.raises(UserError, match=r"1\.json is damaged; delete it to make it again"):
        read_record(path)


def test_a_report_of_what_is_there(folder, killed_run):
    """Two stories tell nothing, and the first line says so; page and Markdown are whole."""
    out, _ = killed_run
    content = report.build(work_in(out, folder), [THREE, TABLES[7]], "the command")
    (entry,) = json.loads(json.dumps(content, allow_nan=False))["tables"]
    assert entry["number"] == 5 and entry["first"].startswith("The rows cannot be told apart")
    assert "not the published systems" in entry["about"]
    assert {row["variant"] for row in entry["rows"]} == {"as is"}
    rolling = entry["rows"][0]
    assert rolling["published"]["VDE Motion"] == 0.0547 and not rolling["familiar"]
    # 0 of 10 are of tau 0.97; of 15 orderings of three rows 10 have the rolling row, which training never showed.
    assert [o["verdict"] for o in entry["orderings"]].count("not judged") == 10
    lines = markdown.document(content)
    assert lines[0].startswith("# ") and "## Table 5: Memory" in lines
    assert lines[lines.index("## Table 5: Memory") + 2] == entry["first"]
    text = page.html(content)
    assert "http" not in text.replace("http-equiv", "") and "<script" not in text
    html.parser.HTMLParser().feed(text)


def test_the_budget_counts_what_is_missing(folder, killed_run, tmp_path):
    out, _ = killed_run
    work = work_in(out, folder)
    todo = budget.lines(work, [THREE])
    assert sum(line.count for line in todo) == 7
    seconds = 7 * AMOUNTS.chunks * (0.5 + budget.MEASURING) + len(todo) * budget.COMPILING
    assert sum(line.minutes for line in todo) * 60 == pytest.approx(seconds)
    assert "no difference can be told" in budget.text(work, [THREE])[-1]


def test_the_budget_refuses_long_fine_tunes(folder, tmp_path):
    amounts = dataclasses.replace(AMOUNTS, updates=1000, chunks=15)
    work = work_in(tmp_path, folder, amounts)
    updates = int(30 * 60 / budget.UPDATE["dit"])
    with pytest.raises(UserError, match=f"give {updates} `updates` or fewer"):
        budget.check(work, [TABLES[7]])
    done = tmp_path / "training" / "one" / FINISHED
    done.parent.mkdir(parents=True)
    done.write_text(json.dumps({"task": "dit", "updates": 100, "seconds": 50.0}))
    budget.check(work, [TABLES[7]])  # half a second an update, as measured here
    # Two seeds each; the third row has two legs of half as many updates.
    legs = [line for line in budget.lines(work, [TABLES[7]]) if line.what.startswith("legs")]
    assert [line.count for line in legs] == [2, 2, 4]
    assert [line.minutes for line in legs] == pytest.approx([1000 / 60] * 3)


# ---- fine-tunes -----------------------------------------------------------------------------------
def tunes(folder, tmp_path, **changes):
    amounts = dataclasses.replace(AMOUNTS, **{"updates": 40} | changes)
    return FineTunes(folder, tmp_path, amounts), UnderTest.load(folder).model, amounts


def test_rows_of_a_table_have_equal_updates_of_equally_many_chunks(folder, tmp_path):
    made, model, amounts = tunes(folder, tmp_path)
    for number in (4, 5, 6, 7):
        for arm in arms_of(TABLES[number], model, amounts):
            legs = made.stretches(arm, 0) if arm.tuned else []
            trained = [s for s in legs if s.experiment.task == legs[-1].experiment.task]
            assert not arm.tuned or sum(s.updates for s in trained) == 40
            for stretch in legs:
                experiment = stretch.experiment
                chunks = int(experiment.data.latents.rpartition("-")[2])
                assert experiment.train.global_batch_size * chunks == amounts.chunks
                assert experiment.forcing.frames * experiment.train.global_batch_size == 24


def test_a_fine_tune_is_named_by_what_makes_it(folder, tmp_path):
    made, model, amounts = tunes(folder, tmp_path)
    arms = {arm.row.name: arm for arm in arms_of(TABLES[6], model, amounts)}
    naive, both = made.stretches(arms["Naive"], 0), made.stretches(arms["Both"], 0)
    assert naive[0].folder == both[0].folder and naive[1].folder != both[1].folder
    assert naive[1].start == naive[0].weights
    critic = both[1].experiment
    assert trunk_config(critic.discriminator, critic.model.dit).num_layers == 2  # the generator's
    other = made.stretches(arms["Naive"], 1)
    assert other[0].folder == naive[0].folder and other[1].folder != naive[1].folder
    start = folder / "dit.safetensors"
    given = dataclasses.replace(made, few_step=start)
    (only,) = given.stretches(arms["Naive"], 0)
    assert only.start == start and only.experiment.task == "self_forcing"
    schedules = [a for a in arms_of(TABLES[4], model, amounts) if a.row.name != "Sigmoid"]
    assert len({made.stretches(arm, 0)[0].folder for arm in schedules}) == 3


def test_a_policy_is_trained_on_what_it_shows(folder, tmp_path):
    made, model, amounts = tunes(folder, tmp_path)
    (arm,) = [a for a in arms_of(table_of(5, ("Rolling KV",)), model, amounts) if a.tuned]
    (stretch,) = made.stretches(arm, 0)
    history, retrieval = stretch.experiment.history, stretch.experiment.model.retrieval
    assert history.weights["rolling"] == 0.9 and history.weights["semantic"] == 0.0
    assert history.anchor_drop == 1.0
    assert retrieval.dense_recent and retrieval.num_retrieved == 0
    assert retrieval.num_recent == arm.model.policy.window


def test_a_stopped_fine_tune_is_not_finished(folder, tmp_path, monkeypatch):
    made, model, amounts = tunes(folder, tmp_path)
    (arm, *_) = arms_of(TABLES[7], model, amounts)
    (stretch,) = made.stretches(arm, 0)
    monkeypatch.setattr(training, "encode", lambda *a: None)
    stretch.folder.mkdir(parents=True)
    monkeypatch.setattr(training.wiring, "train", lambda *a: 15)
    with pytest.raises(WorkError, match="the same command again goes on"):
        made.train(stretch)
    assert not stretch.finished
    monkeypatch.setattr(training.wiring, "train", lambda *a: None)
    made.train(stretch)
    assert stretch.finished
    monkeypatch.setattr(training.wiring, "train", lambda *a: pytest.fail("it was finished"))
    made.train(stretch)


# ---- stories and scores ---------------------------------------------------------------------------
def test_sightings_are_what_they_claim(folder):
    model = UnderTest.load(folder).model
    held = read_story(1003, 15, model)
    story = make_story(1003, SPLIT)
    facts = truth(story, height=32, width=32, fps=2)
    recalls = 0
    for sighting in held.sightings:
        rows = np.arange(1 + 8 * (sighting.chunk - 1), 1 + 8 * sighting.chunk)
        if sighting.kind == "subject":
            subject = story.subjects[sighting.index]
            assert SPECIES[sighting.truth["species"]] == subject.species
            assert COLOURS[sighting.truth["colour"]] == subject.colour
            assert facts.visible[rows[sighting.frames], sighting.index].all()
            assert sighting.frames.mean() >= 0.25
        if sighting.gap:
            unseen = np.arange(1 + 8 * (sighting.chunk - 1 - sighting.gap), rows[0])
            if sighting.kind == "subject":
                assert not facts.visible[unseen, sighting.index].any()
            recalls += sighting.recall
        else:
            assert not sighting.recall
    assert recalls >= 1


class Reader(Judge):
    """Reads species, colour and place from the first pixel, as logits."""

    def logits(self, frames):
        pixels = frames[:, 0, 0]
        return {head: np.eye(8)[pixels[:, i]] for i, head in enumerate(HEADS)}


def test_a_sighting_is_judged_in_its_own_frames(folder):
    """Frames are painted with what is true of one sighting; others are right only where they share it."""
    held = read_story(1003, 6, UnderTest.load(folder).model)
    subject = next(s for s in held.sightings if s.kind == "subject" and s.chunk == 3)
    frames = np.full((held.frames, 4, 4, 3), 7, np.uint8)
    shown = np.arange(1 + 8 * 2, 1 + 8 * 3)[subject.frames]
    for i, head in enumerate(HEADS):
        frames[shown, 0, 0, i] = subject.truth.get(head, 7)
    found = measuring.judged(frames, held, Reader(None, {}), 2)
    (own,) = [
        f for f in found if (f["kind"], f["index"], f["chunk"]) == ("subject", subject.index, 3)
    ]
    assert own["right"] == {"species": True, "colour": True}
    for sighting, record in zip(held.sightings, found, strict=True):
        if sighting.chunk != 3:
            assert record["right"] == {head: label == 7 for head, label in sighting.truth.items()}


def test_stories_are_chosen_where_there_is_something_to_recall(folder):
    model = UnderTest.load(folder).model
    held = chosen(1000, 2, 15, model)
    assert all(any(s.recall for s in h.sightings if s.kind == "subject") for h in held)
    short = chosen(1000, 2, 3, model)  # nothing can return so soon
    assert [h.story.seed for h in short] == [1000, 1001]


def test_drift_leaves_out_what_is_not_shown():
    tenths = np.array([2.0, 3.0, np.nan, 1.0])  # weights 3, 2, 1: of 3 and 1 scaled to 6
    assert measuring.drift_of_known(tenths) == pytest.approx(6 * (3 * 0.5 + 1 * 0.5) / 4)
    assert measuring.drift_of_known(np.array([2.0, 3.0, 2.0, 1.0])) == pytest.approx(3 * 0.5 + 0.5)
    assert measuring.drift_of_known(np.array([0.0, 1.0])) is None
    assert measuring.drift_of_known(np.array([np.nan, 1.0])) is None
    assert measuring.drift_of_known(np.array([1.0, np.nan])) is None


def test_names_are_checked():
    check_names((5,), ("Rolling KV",))
    with pytest.raises(UserError, match="`rows` has 'Rolling'; the rows are Rolling KV; Dynamic"):
        check_names((5,), ("Rolling",))
    with pytest.raises(UserError, match="`table` is 8; it can be 2, 3, 4, 5, 6, 7"):
        table_of(8)
    assert [row.name for row in table_of(2, quick=True).rows][-1] == "BlockVid"


def test_a_policy_that_cannot_make_the_story_is_refused(folder):
    model = UnderTest.load(folder, ("memory.slots=4",)).model
    row = next(row for row in TABLES[2].rows if row.name == "Full history")
    with pytest.raises(UserError, match="row Full history: policy full sees 2 chunks"):
        configured(model, row, AMOUNTS)


# ---- the whole ------------------------------------------------------------------------------------
@pytest.mark.slow
def test_from_weights_to_tables(folder, tmp_path):
    """Two rows of Table 7, fine-tuned on clips and minutes, generated, judged and written down."""
    amounts = Amounts(stories=1, seeds=1, chunks=6, steps=2, updates=2, train_stories=1)
    table = table_of(7, ("Stage 2 only", "Stage 1 + 2"))
    work = work_in(tmp_path, folder, amounts)
    work.run([table], quietly)
    arms: list[Arm] = work.arms(table)
    assert all(len(work.records(arm)) == 1 for arm in arms)
    (entry,) = report.build(work, [table], "the command")["tables"]
    assert [len(row["training"]) for row in entry["rows"]] == [1, 2]
    assert all(row["measures"]["vde/clarity"]["mean"] >= 0 for row in entry["rows"])
    # The legs of Table 6 fit the same data; they are trained in tests of their own tasks.
    for arm in work.arms(table_of(6, ("Both",))):
        for stretch in work.tunes.stretches(arm, 0):
            stage = stages.make_stage(stretch.experiment, folder / "dit.safetensors")
            assert next(stage.make_data())["latents"].shape[0] == 1

"""Protocol (b): whole self-generated minutes, by retrieval arm, judged where something returns.

Here errors travel: a subject that was drawn wrong when it was introduced will be remembered wrong.
So a return is judged against the story (`right`) and, beside that, against what the video itself
showed at the introduction (`same`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from bvjax.config import ModelConfig
from bvjax.generate.decoding import decode_piece
from bvjax.generate.rollout import stream
from bvjax.lvbench.intervals import rate
from bvjax.memory.rules import RULES, Rule, rule_of
from bvjax.policies import POLICIES, configure
from data_pipelines.storyworld import Story, chunk_frames, make_story
from experiments.evaluation.cases import Case, judged_frames, shows, story_cases
from experiments.evaluation.judge import Judge
from experiments.evaluation.memory import is_hit
from experiments.evaluation.memory_scores import arm_scores
from experiments.evaluation.results import Record
from experiments.evaluation.under_test import SPLIT, UnderTest

STORY_CHUNKS = 15


def _retrieval(model: ModelConfig, **changes: Any) -> ModelConfig:
    return dataclasses.replace(model, retrieval=dataclasses.replace(model.retrieval, **changes))


def _by_rule(model: ModelConfig, kind: str) -> ModelConfig:
    """Another rule; without the anchor as well where it does not look back."""
    model = _retrieval(model, kind=kind)
    if rule_of(kind).looks_back:
        return model
    return dataclasses.replace(model, memory=dataclasses.replace(model.memory, anchor=False))


def arms_of(rules: Mapping[str, Rule]) -> dict[str, Callable[[ModelConfig], ModelConfig]]:
    """Returns the configuration of each arm: an arm for each rule, and "full".

    "full" sees every earlier chunk and retrieves none.
    """
    arms = {kind: functools.partial(_by_rule, kind=kind) for kind in rules}
    full = dict(kind="rolling", num_retrieved=0, num_recent=STORY_CHUNKS - 1)
    return {**arms, "full": functools.partial(_retrieval, **full)}


def policy_arms() -> dict[str, Callable[[ModelConfig], ModelConfig]]:
    """Returns the configuration of an arm for each policy, "policy:NAME", that cuts a minute as stories are cut."""
    names = [name for name in POLICIES if name not in ("blockvid", "skyreels")]
    return {
        f"policy:{name}": functools.partial(configure, assignments=(f"policy.name={name}",))
        for name in names
    }


ARMS = arms_of(RULES)
POLICY_ARMS = policy_arms()


@dataclasses.dataclass(frozen=True)
class Minute:
    """A generated video and, per chunk, the chunks that retrieval brought (ids, -1: none)."""

    frames: UInt8[np.ndarray, "f h w 3"]
    retrieved: list[list[int]]


def generate_minute(
    tested: UnderTest,
    story: Story,
    arm: str,
    seed: int,
    oracle: Float[np.ndarray, "c c"] | None = None,
) -> Minute:
    """The story's video under `arm`; `oracle` scores source chunks (columns) for each target."""
    tested.need("dit", "vae", "text")
    model = {**ARMS, **POLICY_ARMS}[arm](tested.model)
    conditions, scores = tested.conditions(story), None
    if "oracle" in rule_of(model.retrieval.kind).needs:
        scores = np.pad(oracle, ((0, 0), (1, 0)))  # ids count from 1; 0 is the anchor
    first, count = int(model.memory.anchor), model.retrieval.num_retrieved
    state, frames, retrieved = None, [], []
    pieces = stream(
        tested.params["dit"],
        model,
        conditions,
        jax.random.key(seed),
        oracle=scores,
        vae_params=tested.params["vae"],
    )
    for piece in sorted(
        pieces, key=lambda piece: piece.chunk_id
    ):  # a policy may make the last first
        state, piece_frames = decode_piece(tested.params["vae"], model, state, piece.latents)
        frames.append(piece_frames)
        if piece.chunk_id > 0:
            ids, valid = piece.report.chunk_id, piece.report.valid
            entries = np.where(valid, ids, -1)[first : first + count]
            retrieved.append([int(i) for i in entries])
    return Minute(np.concatenate(frames), retrieved)


def oracle_scores(cases: list[Case], item: Mapping[str, np.ndarray]) -> Float[np.ndarray, "c c"]:
    """Ground-truth relevance of all chunks; where something returns, of that above all."""
    scores = np.array(item["relevance"], np.float32)
    for case in cases:
        scores[case.chunk - 1] += 4.0 * shows(case, item["seen"], item["place"])
    return scores


def judge_minute(
    tested: UnderTest,
    judge: Judge,
    story: Story,
    cases: list[Case],
    minute: Minute,
    item: Mapping[str, np.ndarray],
) -> dict[str, Record]:
    """A record per case: what is right, whether it is as it was introduced, retrieval hit."""
    return {
        case.key: {
            "right": case.right(_look(tested, judge, story, case, case.chunk, minute)),
            "same": _same(tested, judge, story, case, minute),
            "hit": is_hit(
                shows(case, item["seen"], item["place"]), minute.retrieved[case.chunk - 1]
            ),
        }
        for case in cases
    }


def _look(tested, judge, story, case: Case, chunk: int, minute: Minute) -> dict[str, int]:
    """Returns what the judge sees in a chunk of the minute, where ground truth shows the thing."""
    mask = judged_frames(story, chunk, case.kind, case.index, tested.model.chunk)[None]
    span = chunk_frames(chunk, tested.model.chunk.fps)
    verdict = judge.verdict(minute.frames[None, span.start : span.stop], mask, mask)
    return {head: int(rows[0]) for head, rows in verdict.items()}


def _same(tested, judge, story, case: Case, minute: Minute) -> bool | None:
    """None when the thing is never by itself in the chunk that introduces it."""
    then = _look(tested, judge, story, case, case.first_seen, minute)
    now = _look(tested, judge, story, case, case.chunk, minute)
    if any(then[head] < 0 for head in case.truth):
        return None
    return all(then[head] == now[head] for head in case.truth)


def chosen_stories(first_seed: int, count: int, model: ModelConfig) -> list[int]:
    """The first `count` held-out stories in which a subject returns."""
    seeds, seed = [], first_seed
    while len(seeds) < count:
        if any(case.kind == "subject" for case in story_cases(seed, model)):
            seeds.append(seed)
        seed += 1
    return seeds


def minute_record(
    tested: UnderTest,
    judge: Judge,
    seed: int,
    arm: str,
    item: Mapping[str, np.ndarray],
    video_seed: int,
) -> tuple[Record, Minute]:
    """Generates and judges one story under one arm."""
    story, cases = make_story(seed, SPLIT), story_cases(seed, tested.model)
    minute = generate_minute(tested, story, arm, video_seed, oracle_scores(cases, item))
    return {"cases": judge_minute(tested, judge, story, cases, minute, item)}, minute


def summary(cases: list[Case], records: dict[str, Record]) -> dict[str, Any]:
    """Scores per arm; `records` is {"arm seed": {cases: {key: record}}}."""
    arms: dict[str, dict[str, Record]] = {}
    for name, record in records.items():
        arms.setdefault(name.split()[0], {}).update(record["cases"])
    return {
        arm: {
            **arm_scores(cases, by_case),
            "same as introduced": rate(
                [r["same"] for r in by_case.values() if r["same"] is not None]
            ),
            "minutes": sum(name.split()[0] == arm for name in records),
        }
        for arm, by_case in arms.items()
    }

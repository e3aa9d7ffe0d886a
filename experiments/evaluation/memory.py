"""Protocol (a): after a true history, is the return chunk drawn right?  By arm of retrieval.

The history is the story's own latents, so that an error can come from nowhere but retrieval and the
use of what was retrieved.  All arms see as many entries, the same noise and the same caption.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from bvjax.config import ModelConfig
from bvjax.denoiser import guidance
from bvjax.diffusion.noise import initial_noise
from bvjax.diffusion.solvers import solve
from bvjax.errors import UserError
from bvjax.losses.clip import Clip, make_clip
from bvjax.losses.forward import ClipEntries
from bvjax.losses.history import History, HistoryConfig, draw_history
from bvjax.losses.teacher_forcing import ForcingConfig, TeacherForcing
from bvjax.lvbench.clarity import clarity
from bvjax.memory.rules import RULES, Rule, number_of, rule_of
from bvjax.nets import vae
from bvjax.random import purpose_key
from data_pipelines.storyworld import make_story
from experiments.evaluation.cases import Case, judged_frames, shows
from experiments.evaluation.judge import Judge
from experiments.evaluation.results import Record, Results
from experiments.evaluation.under_test import SPLIT, EncodedStories, UnderTest

TRUE_CHUNK = "true chunk"  # through the VAE: what a perfect model would score
WARM_LATENTS = 8  # true latents that the decoder has seen before the return chunk, at least


@dataclasses.dataclass(frozen=True)
class Arm:
    """A way of choosing the entries, with or without the anchor (frame 0) beside them."""

    kind: str  # of memory.rules.RULES
    anchor: bool

    @property
    def name(self) -> str:
        return self.kind if self.anchor_setting == "on" else f"{self.kind}, no anchor"

    @property
    def anchor_setting(self) -> str:
        """on | off; what does not look back never has an anchor and belongs to the arms of "on"."""
        return "on" if self.anchor or not rule_of(self.kind).looks_back else "off"


def arms_of(rules: Mapping[str, Rule]) -> dict[str, Arm]:
    """All arms of the rules by name, those with the anchor first."""
    arms = [
        Arm(kind, anchor and rule.looks_back)
        for anchor in (True, False)
        for kind, rule in rules.items()
    ]
    return {arm.name: arm for arm in arms}


ARMS = arms_of(RULES)


class ReturnChunks:
    """The programs of protocol (a), each compiled once for a batch size."""

    def __init__(self, model: ModelConfig, null_text: Float[np.ndarray, "t d"]):
        """Raises `UserError` for guidance with a second bank, which this does not measure."""
        if model.guidance.two_banks:
            raise UserError(
                f"guidance.bank is {model.guidance.bank!r}; memory is measured with guidance.bank='one'"
            )
        clean = HistoryConfig(anchor_drop=0, caption_drop=0, noise_chance=0)
        self.model = model
        self.teacher = TeacherForcing(model, ForcingConfig(history=clean), null_text)

    @functools.partial(jax.jit, static_argnums=0)
    def entries(
        self, params: Any, clip: Clip, kind: Int[Array, ""], anchor: Bool[Array, ""], seeds: Array
    ) -> ClipEntries:
        """Encodes the true chunks (Algorithm 2), by arm with build.context="with"."""
        batch, chunks = clip.chunks.shape[:2]
        target = jnp.broadcast_to(jnp.arange(1, chunks + 1), (batch, chunks))
        history = self._history(clip, target, kind, anchor, _keys(seeds))
        key = jax.random.key(0)  # of the probes, which all cases share
        noise = self.teacher.forcing.history
        return self.teacher.forward.entries(params, clip, history, noise, purpose_key(key, "bank"))

    @functools.partial(jax.jit, static_argnums=0)
    def generate(
        self,
        params: Any,
        entries: ClipEntries,
        clip: Clip,
        target: Int[Array, "b"],
        kind: Int[Array, ""],
        anchor: Bool[Array, ""],
        seeds: Int[Array, "b"],
    ) -> tuple[Float[Array, "b l h w z"], Int[Array, "b e"]]:
        """The target chunk from noise, and the chunks in its context [top-l | recent], -1: none.

        `kind` and `anchor` are traced, so one program serves every arm.  A case's result does not
        depend on the others of its batch.
        """
        model, forward, keys = self.model, self.teacher.forward, _keys(seeds)
        history = self._history(clip, target[:, None], kind, anchor, keys)
        prepare = functools.partial(forward.context, entries, target=target[:, None])
        context, start = prepare(history)
        null_context, null_sees = context, guidance.null_sees(model, history.valid)
        if null_sees is not None:
            null_context, _ = prepare(history.replace(valid=null_sees))
        rows = jnp.arange(len(target)), target - 1
        null = jnp.broadcast_to(self.teacher.null_text, clip.text[rows].shape)

        def branch(x, sigma, text, context):
            sigma = jnp.full((len(x), 1), sigma)
            return forward.velocity(params, x[:, None], sigma, text[:, None], context, start)[:, 0]

        velocity = guidance.guide(
            lambda x, sigma: branch(x, sigma, clip.text[rows], context),
            lambda x, sigma: branch(x, sigma, null, null_context),
            guidance.guidance_scale(model, history.valid[:, 0]),
        )
        draw = functools.partial(initial_noise, model.noise, shape=clip.chunks.shape[2:])
        noise = jax.vmap(lambda key, chunk: draw(key, chunk)[0])(keys, target)
        solver_key = purpose_key(jax.random.key(0), "solver")
        latents = solve(model.sampler, velocity, noise, solver_key)
        return latents, jnp.where(history.valid, history.index + 1, -1)[:, 0]

    def _history(self, clip: Clip, target: Int[Array, "b m"], kind, anchor, keys: Array) -> History:
        def one(key, target, embedding, relevance, latents):
            arrays = (x[None] for x in (target, embedding, relevance))
            kinds = jnp.full((1, len(target)), kind)
            config, chances = self.model.retrieval, self.teacher.forcing.history
            sampled = draw_history(
                purpose_key(key, "history"), *arrays, config, chances, kinds, latents[None]
            )
            return jax.tree.map(lambda x: x[0], sampled)

        history = jax.vmap(one)(keys, target, clip.embedding, clip.relevance, clip.chunks)
        return history.replace(anchor=history.anchor & anchor)


def _keys(seeds: Int[Array, "b"]) -> Array:
    return jax.vmap(jax.random.key)(seeds)


@functools.partial(jax.jit, static_argnames="config")
def warm_up(params: Any, config: Any, latents: Float[Array, "b l h w z"]) -> vae.VAEState:
    """The decoder's state after true latents from the middle of a video."""
    height, width = (config.spatial_factor * n for n in latents.shape[2:4])
    state = vae.init_decode_state(config, len(latents), height, width)
    return vae.decode_stream(params, config, state, latents, first=True)[0]


@functools.partial(jax.jit, static_argnames="config")
def decode_after(
    params: Any, config: Any, state: vae.VAEState, latents: Float[Array, "b l h w z"]
) -> UInt8[Array, "b f h w 3"]:
    """Frames of the chunk that follows."""
    return vae.to_uint8(vae.decode_stream(params, config, state, latents, first=False)[1])


def measure(
    program: ReturnChunks,
    tested: UnderTest,
    stories: EncodedStories,
    judge: Judge,
    cases: Sequence[Case],
    arms: Sequence[Arm],
    records: dict[str, Record],
    results: Results,
    *,
    batch: int,
    seed: int,
    progress=iter,
) -> None:
    """Adds a record {arm: {right, hit, sharpness, entries}} per case; saves after every batch.

    `sharpness` is the clarity of the chunk as a share of that of the true chunk through the VAE.

    Cases that already have a record keep it; new arms are added to it.

    Args:
        batch: cases at a time.
        progress: wraps the iterator of batches (tqdm).
    """
    groups = [cases[i : i + batch] for i in range(0, len(cases), batch)]
    for group in progress(groups):
        missing = [a for a in arms if any(a.name not in records.get(c.key, {}) for c in group)]
        if not missing:
            continue
        padded = list(group) + [group[-1]] * (batch - len(group))
        for arm, new in _run(program, tested, stories, judge, padded, missing, seed):
            for case, record in zip(group, new, strict=False):
                records.setdefault(case.key, {})[arm] = record
        results.save()


def _run(
    program: ReturnChunks,
    tested: UnderTest,
    stories: EncodedStories,
    judge: Judge,
    cases: Sequence[Case],
    arms: Iterable[Arm],
    seed: int,
):
    """Yields (name of the arm, a record per case)."""
    model, params, length = tested.model, tested.params, program.teacher.grid.latents_per_chunk
    items = [stories[case.seed] for case in cases]
    relevance = np.stack(
        [shows(c, i["seen"], i["place"]) for c, i in zip(cases, items, strict=True)]
    )
    clip = _clip(program, items, cases, relevance)
    masks = np.stack(
        [
            judged_frames(make_story(c.seed, SPLIT), c.chunk, c.kind, c.index, model.chunk)
            for c in cases
        ]
    )
    target = np.array([case.chunk for case in cases], np.int32)
    starts = [1 + (case.chunk - 1) * length for case in cases]
    warm = min(max(length, WARM_LATENTS), *starts)
    before = [i["latents"][s - warm : s] for i, s in zip(items, starts, strict=True)]
    state = warm_up(params["vae"], model.vae, np.stack(before))
    true = [i["latents"][s : s + length] for i, s in zip(items, starts, strict=True)]
    frames = decode_after(params["vae"], model.vae, state, np.stack(true))
    sharp = np.maximum(sharpness(frames), 1e-6)

    def records(frames, fields_of):
        frames, share = np.asarray(frames), sharpness(frames) / sharp
        verdict = judge.verdict(frames, masks, masks)
        return [
            {
                "right": case.right({head: rows[i] for head, rows in verdict.items()}),
                "sharpness": float(share[i]),
                **fields_of(i),
            }
            for i, case in enumerate(cases)
        ]

    yield TRUE_CHUNK, records(frames, lambda i: {"hit": None})
    seeds = np.array([seed + case.seed for case in cases], np.uint32)
    entries = None
    for arm in arms:
        kind, anchor = np.int32(number_of(arm.kind)), np.bool_(arm.anchor)
        if entries is None or model.build.context == "with":
            entries = program.entries(params["dit"], clip, kind, anchor, seeds)
        latents, chunks = program.generate(
            params["dit"], entries, clip, target, kind, anchor, seeds
        )
        frames = decode_after(params["vae"], model.vae, state, latents)
        attended = np.asarray(chunks)

        def fields_of(i, attended=attended):
            top = attended[i, : model.retrieval.num_retrieved]
            return {"hit": is_hit(relevance[i], top), "entries": attended[i].tolist()}

        yield arm.name, records(frames, fields_of)


def sharpness(frames: UInt8[Array, "b f h w 3"]) -> Float[np.ndarray, "b"]:
    """Mean clarity (Eq. 20) of each video."""
    return np.array([clarity(video).mean() for video in np.asarray(frames)])


def is_hit(relevance: Float[np.ndarray, "c"], chunks: Iterable[int]) -> bool:
    """Returns whether one of the retrieved chunks (counted from 1, -1: none) shows what returns."""
    return any(chunk > 0 and relevance[chunk - 1] > 0 for chunk in chunks)


def _clip(program: ReturnChunks, items, cases, relevance) -> Clip:
    """A batch of stories; the oracle of each retrieves for its case."""
    names = ("latents", "text", "embedding", "relevance")
    stacked = {name: np.stack([item[name] for item in items]) for name in names}
    for row, case in enumerate(cases):
        stacked["relevance"][row, case.chunk - 1] = relevance[row]
    return make_clip(stacked, program.teacher.grid)

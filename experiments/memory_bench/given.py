"""Mode "given": the true past is in the bank, and only the chunk of the return is generated.

Which entries that chunk sees depends on captions and ids alone, and with build.context="none" an entry depends on
nothing but its own chunk. So of the past only the chunks that will be seen are rendered and encoded, and a return after
ten minutes costs what one after ten seconds costs; the result is that of the whole past.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig, PolicyConfig, PromptConfig
from bvjax.denoiser.types import ChunkInput, MemoryState
from bvjax.errors import UserError
from bvjax.generate import steps
from bvjax.generate.conditions import Conditions, encode_captions
from bvjax.generate.host_bank import plan
from bvjax.memory import bank as kv_bank
from bvjax.memory.bank import Entry, KVBank
from bvjax.memory.retrieval import GatheredEntries, SelectedBank, Selection
from bvjax.memory.rules import rule_of
from bvjax.memory.slot_table import holds_latents
from bvjax.memory.storage import storage_dtype
from bvjax.story import split_times
from data_pipelines.storyworld import Story
from data_pipelines.storyworld.excerpts import Excerpt, encode_excerpt
from experiments.evaluation.memory import WARM_LATENTS, decode_after, warm_up
from experiments.evaluation.under_test import UnderTest
from experiments.memory_bench.cases import Case
from experiments.memory_bench.judging import Frames

Latents = Float[np.ndarray, "l h w z"]


@dataclasses.dataclass(frozen=True)
class Lookup:
    """The entries that a chunk sees, and the ids of all that the bank holds when it is made."""

    selection: Selection
    kept: frozenset[int]

    @property
    def seen(self) -> tuple[int, ...]:
        """Ids of the entries, ascending in each group; 0 is the first frame."""
        return tuple(self.selection.chunk_id[self.selection.valid].tolist())


def check_given(model: ModelConfig) -> None:
    """Raises `UserError` for a model whose entries depend on more than their own chunks."""
    for name, value, wanted in (
        ("policy.name", model.policy.name, "blockvid"),
        ("build.context", model.build.context, "none"),
        ("prompt.change", model.prompt.change, "hard"),
        ("guidance.two_banks", model.guidance.two_banks, False),
    ):
        if value != wanted:
            raise UserError(
                f"{name} is {value!r}; mode 'given' needs {wanted!r}, mode 'self' takes any"
            )
    if needs := {"oracle", "latents"} & set(rule_of(model.retrieval.kind).needs):
        raise UserError(
            f"retrieval.kind is {model.retrieval.kind!r}, which chooses by {' and '.join(sorted(needs))}; mode 'given' "
            "takes rules that choose by captions, ids or chance"
        )
    if model.levels.start != "full" and not model.retrieval.num_recent:
        raise UserError(
            "levels.start='level' begins a chunk with the one before it; mode 'given' needs retrieval.num_recent of 1 or "
            "more then"
        )


def plain(model: ModelConfig) -> ModelConfig:
    """The model with what `check_given` refuses put aside, to time a chunk of it."""
    kind = model.retrieval.kind
    kind = "semantic" if {"oracle", "latents"} & set(rule_of(kind).needs) else kind
    return dataclasses.replace(
        model,
        policy=PolicyConfig(),
        build=dataclasses.replace(model.build, context="none"),
        prompt=PromptConfig(),
        guidance=dataclasses.replace(model.guidance, bank="one"),
        retrieval=dataclasses.replace(model.retrieval, kind=kind),
        levels=dataclasses.replace(model.levels, start="full"),
    )


def look_up(
    model: ModelConfig, conditions: Conditions, key: Key[Array, ""], target: int
) -> tuple[Lookup, list[ChunkInput]]:
    """The entries that chunk `target` of a story sees, and the inputs of all chunks up to it by id."""
    inputs = [steps.entry_inputs(model, conditions, key, None, i) for i in range(target + 1)]
    visits, _ = plan(_for_lookup(model), inputs)
    owners = {visit.slot: i for i, visit in visits.items() if i < target}
    owners.pop(model.memory.slots, None)  # nowhere
    return Lookup(visits[target].seen, frozenset(owners.values())), [group[-1] for group in inputs]


class TruePast:
    """The past of a story as a model encodes it, made as it is asked for and kept as long as this is."""

    def __init__(self, tested: UnderTest, story: Story):
        self.tested, self.story = tested, story
        self._latents: dict[int, Latents] = {}
        self._entries: dict[tuple[int, ModelConfig], Entry] = {}
        self._texts = _Texts()

    def conditions(self, story: Story) -> Conditions:
        """The captions of the story, or of the same with a reworded one."""
        captions = [split_times(caption)[0] for caption in story.captions]
        tested = self.tested
        load = lambda: tested.params["text"]
        negative = tested.model.guidance.negative
        return encode_captions(
            load, tested.model.text, tested.tokenizer, captions, negative, self._texts
        )

    def latents(self, chunk: int) -> Latents:
        """True latents of a chunk; of the first frame for 0."""
        if chunk not in self._latents:
            encoded = encode_excerpt(self.tested.encoders, Excerpt(self.story, (max(chunk, 1),)))
            self._latents.setdefault(0, encoded[:1])
            self._latents[max(chunk, 1)] = encoded[1:]
        return self._latents[chunk]

    def before(self, chunk: int) -> Latents:
        """Latents that the decoder has seen before a chunk."""
        length = ChunkGrid.of(self.tested.model).latents_per_chunk
        chunks = range(max(1, chunk - -(-WARM_LATENTS // length)), chunk)
        return np.concatenate([self.latents(i) for i in chunks])[-max(length, WARM_LATENTS) :]

    def entry(self, model: ModelConfig, inputs: ChunkInput) -> Entry:
        """The entry of a chunk in the bank."""
        chunk, model = int(inputs.chunk_id), _for_encoding(model, self.tested.model)
        if (chunk, model) not in self._entries:
            encoded, _ = steps.encode_program(
                self.tested.params["dit"], model, _nothing(model), inputs, self.latents(chunk)
            )
            if encoded is None:
                raise UserError("this model never looks back; its memory cannot be measured")
            self._entries[chunk, model] = encoded.entry
        return self._entries[chunk, model]


def return_chunk(past: TruePast, case: Case, model: ModelConfig, seed: int) -> tuple[Array, Lookup]:
    """Latents of the chunk of the return, generated after the true past, and what it saw.

    Args:
        model: the model of `past` with other settings of memory and retrieval.
        seed: of the noise.
    """
    key = jax.random.key(seed)
    lookup, inputs = look_up(model, past.conditions(case.story), key, case.chunk)
    base = past.tested.model
    state = MemoryState(_seen_bank(past, model, lookup.selection, inputs), null_bank=None)
    params, model = past.tested.params["dit"], _for_denoising(model, base)
    return steps.denoise_program(params, model, state, inputs[case.chunk]), lookup


def _seen_bank(
    past: TruePast, model: ModelConfig, selection: Selection, inputs: Sequence[ChunkInput]
) -> SelectedBank:
    """A bank that has the selected entries alone, in the order of the selection."""
    empty, ids = _empty(model), selection.chunk_id[0]
    valid = selection.valid[0]
    entries = [
        past.entry(model, inputs[i]) if there else empty
        for i, there in zip(ids.tolist(), valid.tolist(), strict=True)
    ]
    rows = jax.tree.map(lambda *each: jnp.stack(each, axis=2), *entries)
    latents = None
    if holds_latents(model):  # the chunk is told the last latent before it
        parts = [past.latents(i) if there else None for i, there in zip(ids, valid, strict=True)]
        length = ChunkGrid.of(model).latents_per_chunk
        shape = (length, *past.latents(0).shape[1:])
        latents = np.zeros((1, len(parts), *shape), np.float32)
        for row, part in enumerate(parts):
            if part is not None:
                latents[0, row, : len(part)] = part
    bank = KVBank(
        **vars(rows),
        embedding=jnp.zeros((1, len(entries), model.text.dim), jnp.float32),
        chunk_id=jnp.asarray(selection.chunk_id),
        valid=jnp.asarray(selection.valid),
        latents=None if latents is None else jnp.asarray(latents),
    )
    return SelectedBank(bank, selection)


def decoded(past: TruePast, chunk: int, latents: Array | Latents) -> Frames:
    """Frames of a chunk that comes after the true ones."""
    params, config = past.tested.params["vae"], past.tested.model.vae
    state = warm_up(params, config, past.before(chunk)[None])
    return np.asarray(decode_after(params, config, state, jnp.asarray(latents)[None]))[0]


class _Texts(dict):
    """Text states by caption (`generate.conditions.Cache`)."""

    load = dict.get

    def save(self, caption: str, states: Any) -> None:
        self[caption] = states


# Programs are compiled for a configuration. What does not matter to them is taken from the base, so that they serve
# many settings.
def _for_lookup(model: ModelConfig) -> ModelConfig:
    """Latents have no part in what is selected."""
    dit = dataclasses.replace(model.dit, previous_latent=False)
    return dataclasses.replace(
        model, dit=dit, levels=dataclasses.replace(model.levels, start="full")
    )


def _for_encoding(model: ModelConfig, base: ModelConfig) -> ModelConfig:
    memory = dataclasses.replace(model.memory, slots=base.memory.slots, evict=base.memory.evict)
    return dataclasses.replace(model, memory=memory, retrieval=base.retrieval)


def _for_denoising(model: ModelConfig, base: ModelConfig) -> ModelConfig:
    memory = dataclasses.replace(
        model.memory, slots=base.memory.slots, evict=base.memory.evict, tau=base.memory.tau
    )
    retrieval = dataclasses.replace(model.retrieval, kind=base.retrieval.kind)
    return dataclasses.replace(model, memory=memory, retrieval=retrieval)


@functools.cache
def _empty(model: ModelConfig) -> Entry:
    """The rows of a slot in which nothing is."""
    shapes = kv_bank.entry_shapes(model, 1, storage_dtype(model))
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def _nothing(model: ModelConfig) -> MemoryState:
    """A memory of which nothing is seen."""
    retrieval = model.retrieval
    shape = (1, model.memory.anchor + retrieval.num_retrieved + retrieval.num_recent)
    none = jnp.zeros(shape, bool)
    selection = Selection(
        index=jnp.zeros(shape, jnp.int32),
        chunk_id=jnp.full(shape, -1, jnp.int32),
        valid=none,
        recent=none,
        scores=jnp.zeros(shape, jnp.float32),
        similarity=jnp.zeros(shape, jnp.float32),
    )
    entries = (_empty(model),) * shape[1]
    return MemoryState(bank=GatheredEntries(entries, selection), null_bank=None)

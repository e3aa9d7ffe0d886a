"""A bank in host memory: the same video to the bit, no more programs, little on the device."""

import dataclasses

import jax
import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.generate import host_bank, steps
from bvjax.generate import rollout as rollouts
from bvjax.generate.conditions import Conditions
from bvjax.generate.rollout import rebuild_bank, rollout, stream

pytestmark = pytest.mark.slow  # compiles streams of many kinds
KEY = jax.random.key(5)
# Six slots for more entries: some are evicted.
CASES = {
    "int8": dict(memory={"dtype": "int8"}, guidance={"memory": 3.0}),
    "fp8": dict(
        memory={"dtype": "float8_e4m3fn", "evict": "oldest", "capacity": 8},
        retrieval={"dense_recent": True},
        guidance={"scale": 1.0},
    ),
    "with": dict(build={"context": "with"}, guidance={"bank": "two"}),
    "overlap": dict(chunk={"first": "overlap"}, build={"context": "with"}, guidance={"scale": 1.0}),
    "alone": dict(
        retrieval={"num_recent": 0, "num_retrieved": 0},
        memory={"anchor": False},
        guidance={"scale": 1.0},
    ),
}


def offloaded(model, offload):
    return dataclasses.replace(model, memory=dataclasses.replace(model.memory, offload=offload))


def conditions_of(model, num_chunks):
    rng = np.random.default_rng(0)
    text = rng.normal(size=(num_chunks + 1, model.text.max_length, model.text.dim))
    text = text.astype(np.float32)
    return Conditions(text=text[:-1], embedding=text[:-1].mean(1), null_text=text[-1:])


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def same(pieces, others):
    for a, b in zip(pieces, others, strict=True):
        assert a.chunk_id == b.chunk_id
        equal(a.latents, b.latents)
        equal(a.report, b.report)


def check_same(tiny, model):
    """On the device and on the host: the same video, made, resumed, and the same bank rebuilt."""
    params, conditions = tiny.params["dit"], conditions_of(model, 7)
    rest = dict(vae_params=tiny.params["vae"])
    pieces = list(stream(params, model, conditions, KEY, **rest))
    host = offloaded(model, "host")
    same(pieces, stream(params, host, conditions, KEY, **rest))
    done = {piece.chunk_id: piece.latents for piece in pieces[:4]}
    same(pieces, _as_fresh(stream(params, host, conditions, KEY, done=done, **rest)))
    latents = {piece.chunk_id: piece.latents for piece in pieces}
    banks = [rebuild_bank(params, m, conditions, KEY, latents) for m in (host, model)]
    equal(*banks)
    return pieces, banks[0]


def test_same_video_and_bank_to_the_bit(tiny):
    pieces, state = check_same(tiny, tiny.joined)
    assert np.abs(state.bank.keys).max() > 0 and np.asarray(pieces[-1].report.valid).all()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_same_to_the_bit_in_every_way(tiny, case):
    pieces, state = check_same(tiny, tiny.variant(sampler={"kind": "euler"}, **CASES[case]))
    if case != "alone":
        assert np.abs(np.asarray(state.bank.keys, np.float32)).max() > 0
        assert np.asarray(pieces[-1].report.valid).all()


def _as_fresh(pieces):
    return [dataclasses.replace(piece, fresh=True) for piece in pieces]


class Watched(host_bank.HostBank):
    """Notes what is on the device while a chunk is denoised, and what is sent there."""

    made = []

    def __init__(self, *args):
        super().__init__(*args)
        self.on_device, self.sent, self.fetched = [], [], []
        Watched.made.append(self)

    def fetch(self, chunk_id):
        before = set(self._near)
        super().fetch(chunk_id)
        self.fetched.append(set(self._near) - before)
        self.on_device.append(set(self._near))

    def _entry(self, chunk_id):
        if chunk_id not in self._near:
            self.sent.append(chunk_id)
        return super()._entry(chunk_id)


@pytest.fixture(scope="module")
def watched(tiny):
    """Streams of 4 and 14 chunks: the banks, and how many programs were compiled for each."""
    model = dataclasses.replace(offloaded(tiny.joined, "host"), name="host-bank-test")
    counts, pieces = [], []
    count = lambda event, *_, **__: counts.append(event.endswith("backend_compile_duration"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollouts, "HostBank", Watched)
        jax.monitoring.register_event_duration_secs_listener(count)
        try:
            for length in (4, 14):
                conditions = conditions_of(model, length)
                pieces.append(list(stream(tiny.params["dit"], model, conditions, KEY)))
                counts.append(None)
        finally:
            jax.monitoring.unregister_event_duration_listener(count)
    split = counts.index(None)
    return model, pieces, Watched.made[-1], (sum(counts[:split]), sum(counts[split + 1 : -1]))


def test_longer_stories_compile_nothing_more(watched):
    first, second = watched[3]
    assert first > 0 and second == 0


def test_little_is_on_the_device_and_little_is_sent(watched):
    model, (_, pieces), bank, _ = watched
    reports = [piece.report for piece in pieces]
    seen = [{int(i) for i in np.asarray(r.chunk_id)[np.asarray(r.valid)]} for r in reports]
    for now, following, held in zip(seen, seen[1:], bank.on_device, strict=False):
        assert held <= now | following  # the context at work and the next one, less the newest
    # what a chunk sees is on its way before the chunk begins, but for the newest, which is there
    assert set().union(*bank.fetched) == set(bank.sent)
    # the anchor and the recent entries never leave the device while they are needed
    fresh = sum(len(now - before) for before, now in zip(seen, seen[1:], strict=False))
    assert 0 < len(bank.sent) == fresh - (len(seen) - 1)


def test_entries_lie_in_pinned_host_memory(watched):
    model, _, bank, _ = watched
    assert len(bank._far) == model.memory.slots  # evicted ones are gone
    for entry, kind in (
        (bank._far, "pinned_host"),
        (bank._near, "device"),
        (bank._empty, "device"),
    ):
        kinds = {leaf.sharding.memory_kind for leaf in jax.tree.leaves(entry)}
        assert kinds <= {kind}


def test_without_pinned_memory_entries_are_numpy(tiny, watched, monkeypatch, caplog):
    model, (pieces, _), _, _ = watched
    monkeypatch.setattr(host_bank, "PINNED", "no_such_memory")
    monkeypatch.setattr(rollouts, "HostBank", Watched)
    same(pieces, stream(tiny.params["dit"], model, conditions_of(model, 4), KEY))
    leaves = jax.tree.leaves(Watched.made[-1]._far)
    assert leaves and all(isinstance(leaf, np.ndarray) for leaf in leaves)
    assert "no no_such_memory memory" in caplog.text


def test_rollout_refuses_the_host(tiny):
    model = tiny.variant(memory={"offload": "host"})
    with pytest.raises(UserError, match="use stream"):
        rollout(tiny.params["dit"], model, conditions_of(model, 2), KEY)


@pytest.mark.parametrize("offload", ["none", "host"])
def test_a_stream_reads_nothing_back(tiny, watched, offload, monkeypatch):
    """Host code sees no value of the device, so that it can be ahead of it."""
    model = watched[0]
    model = offloaded(model, offload)
    pieces = stream(tiny.params["dit"], model, conditions_of(model, 4), KEY)
    next(pieces)  # the plan of a host bank is read back before all chunks
    array = type(jax.numpy.zeros(()))

    asarray = np.asarray

    def read(x, *args, **kwargs):
        assert not isinstance(x, array), "a value was read back"
        return asarray(x, *args, **kwargs)

    monkeypatch.setattr(np, "asarray", read)  # which takes no detour through `_value` on a CPU
    monkeypatch.setattr(array, "_value", property(read))
    made = list(pieces)
    monkeypatch.undo()
    assert len(made) == 3 and all(isinstance(piece.latents, array) for piece in made)
    assert np.isfinite(made[-1].latents).all()


def test_a_plan_is_what_the_device_does(tiny):
    model = tiny.joined
    conditions = conditions_of(model, 8)
    chunks = [steps.entry_inputs(model, conditions, KEY, None, i) for i in range(8)]
    visits, table = host_bank.plan(model, chunks)
    latents = {i: np.ones((2, 4, 4, 16), np.float32) for i in range(8)}
    bank = rebuild_bank(tiny.params["dit"], model, conditions, KEY, latents).bank
    for field in ("chunk_id", "embedding", "valid"):
        np.testing.assert_array_equal(getattr(table, field), getattr(bank, field))
    slots = {int(i): slot for slot, i in enumerate(bank.chunk_id[0])}
    assert all(visits[i].slot == slot for i, slot in slots.items())
    assert sorted(slots) != list(range(8))  # some were evicted
    assert visits[7].seen.chunk_id[0, 2:].tolist() == [5, 6]

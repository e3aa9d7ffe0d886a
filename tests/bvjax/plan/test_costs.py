"""Work and bytes of a chunk against sums written out."""

import jax
import pytest

from bvjax.overrides import apply_overrides
from bvjax.plan import costs
from bvjax.plan.program import inputs
from bvjax.policies import configure
from bvjax.presets import get_preset
from bvjax.sharding import ONE_DEVICE, make_layout
from kernels_pallas import attention_tpu

MINI, WAN = get_preset("mini"), get_preset("wan-1.3b")


class Cut:
    """Sizes of a mesh of devices that are not here."""

    def __init__(self, **sizes):
        self.sizes = sizes

    def size(self, *axes):
        made = 1
        for axis in axes:
            made *= self.sizes.get(axis, 1)
        return made


def test_entries_that_are_encoded_again():
    work = {"clean pass": 7, "projections": 100}
    assert costs.recache(MINI, work) == {}
    recent = MINI.retrieval.num_recent
    again = apply_overrides(MINI, ("prompt.change=recache",))
    assert costs.recache(again, work) == {"entries": recent, "flops": 7 * recent}
    longlive = configure(MINI, ("policy.name=longlive", "policy.window=4"))
    assert costs.recache(longlive, work)["entries"] == longlive.retrieval.num_recent == 4


def test_flops_by_part():
    found = costs.chunk_flops(MINI)
    passes, layers = 2 * MINI.sampler.steps, MINI.dit.num_layers
    d, tokens = MINI.dit.dim, 128
    rows = tokens + costs.context_rows(MINI)
    assert found["self-attention"] == passes * layers * 4 * tokens * rows * d
    words = MINI.text.max_length
    assert found["cross-attention"] == passes * layers * 4 * tokens * words * d
    linear = 2 * tokens * d * (6 * d + 2 * MINI.dit.ffn_dim) + 2 * words * d * 2 * d
    assert found["projections"] == passes * layers * linear
    assert found["text encoder"] > 0 and found["VAE decode"] > 0
    assert set(found) == {
        "self-attention",
        "cross-attention",
        "projections",
        "embeddings, head",
        "clean pass",
        "text encoder",
        "VAE decode",
    }


def test_memory_by_part():
    parts = costs.memory_parts(WAN, ONE_DEVICE, inputs(WAN, ONE_DEVICE))
    assert parts["weights"] == pytest.approx(2 * 1.42e9, rel=0.01)  # bfloat16
    rows = costs.context_rows(WAN)
    assert parts["context"] == 30 * 2 * rows * 1536 * 2 * (1 + WAN.guidance.two_banks)
    assert parts["gathered"] == 0
    assert parts["vae"] > 127e6 * 4
    with_mesh = make_layout({}, jax.devices()[:1])
    assert costs.memory_parts(WAN, with_mesh, inputs(WAN, with_mesh)) == parts


def test_traffic_counts_what_is_received_as_well():
    parts = dict(weights=8, context=6, activations=1, bank=70 * WAN.memory.slots)
    alone = costs.traffic(WAN, Cut(data=2), parts)
    passes = WAN.sampler.steps + 1
    assert alone == {
        "weights": passes * 8,
        "context": passes * 6,
        "activations": 2 * passes * 30,
        "bank": 140,
    }
    cut = costs.traffic(WAN, Cut(data=2, fsdp=2, context=3), parts)
    assert cut["weights"] == 2 * alone["weights"] and cut["context"] == 6 * alone["context"]


def test_padding_of_blocks():
    for sizes in (dict(context=4), dict(context=8, data=2)):
        assert 0 <= costs.attention_padding(WAN, Cut(**sizes), "v5e") < 0.05
    assert attention_tpu.padding(17, 130) == pytest.approx(32 * 256 / (17 * 130) - 1)
    assert costs.attention_padding(MINI, ONE_DEVICE, "h100") is None


def test_dense_history_is_what_the_field_reports():
    model = apply_overrides(WAN, ["chunk.fps=16"])
    assert costs.dense_history(model, 1) == pytest.approx(69.3e9, rel=0.01)

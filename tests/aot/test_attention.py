"""Attention at the sizes of a 480x832 video, compiled for TPUs and NVIDIA GPUs that are not here."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from kernels_pallas.attention import attention

TPUS, GPUS = ("v5e:2x2", "v5p:2x2x1", "v6e:2x2"), ("h100:1x1", "h200:1x1")
HEADS, DIM = 12, 128


def compiled(
    device, n, s, form, *, dtype=jnp.bfloat16, rows=1, length=False, lse=False, train=False
):
    """The program, the bytes of its inputs, and those of all its logits in float32."""
    sharding = SingleDeviceSharding(device)
    struct = lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
    qkv = [struct((rows, count, HEADS, DIM), dtype) for count in (n, s, s)]
    length = struct((rows,), jnp.int32) if length else None
    mask = struct((rows, s), jnp.bool_) if train else None

    def forward(q, k, v, length, mask):
        return attention(
            q, k, v, kv_length=length, kv_mask=mask, return_lse=lse, implementation=form
        )

    def gradients(*args):
        def loss(*qkv):
            return jnp.sum(forward(*qkv, *args[3:]).astype(jnp.float32) ** 2)

        return jax.grad(loss, (0, 1, 2))(*args[:3])

    program = jax.jit(gradients if train else forward).lower(*qkv, length, mask).compile()
    inputs = sum(x.size * x.dtype.itemsize for x in qkv)
    return program, inputs, 4 * rows * n * s * HEADS


def calls(program) -> set[str]:
    return set(re.findall(r'custom_call_target="([^"]+)"', program.as_text()))


CASES = {  # a chunk of 24 latents and its memory; one latent; the text; a chunk of 3 in training
    "long": dict(n=37440, s=132160, length=True),
    "two rows": dict(n=4680, s=32760, rows=2, length=True, lse=True),
    "one latent": dict(n=1560, s=34320, length=True, lse=True),
    "text": dict(n=37440, s=512),
    "training": dict(n=4680, s=32760, train=True),
}


@pytest.mark.parametrize(
    "name, case",
    [
        *((name, case) for name in TPUS for case in ("long", "two rows", "training")),
        ("v5p:2x2x1", "one latent"),
        ("v5p:2x2x1", "text"),
    ],
)
def test_a_tpu_runs_splash_and_needs_no_more_than_its_inputs_again(devices, name, case):
    train = CASES[case].get("train", False)
    program, inputs, logits = compiled(devices(name)[0], form="tpu", **CASES[case])
    kernels = set(re.findall(r"splash_mha_(fwd|dq|dkv)", program.as_text()))
    assert "tpu_custom_call" in calls(program)
    assert kernels == ({"fwd", "dq", "dkv"} if train else {"fwd"})
    temporaries = program.memory_analysis().temp_size_in_bytes
    assert temporaries < (2.5 if train else 1.5) * inputs
    assert temporaries < logits / (8 if case != "text" else 3)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", GPUS)
def test_a_gpu_runs_cudnn_and_needs_no_more_than_its_inputs_again(devices, name, case):
    pytest.importorskip("nvidia.cudnn")
    train = CASES[case].get("train", False)
    program, inputs, _ = compiled(devices(name)[0], form="gpu", **CASES[case])
    want = {"__cudnn$fmhaSoftmax"} | ({"__cudnn$fmhaSoftmaxBackward"} if train else set())
    assert want <= calls(program)
    assert program.memory_analysis().temp_size_in_bytes < 1.5 * inputs


@pytest.mark.parametrize("case", ("long", "two rows", "one latent"))
@pytest.mark.parametrize("name", GPUS)
def test_triton_where_it_is_asked_for(devices, name, case):
    program, inputs, _ = compiled(devices(name)[0], form="triton", **CASES[case])
    assert "__gpu$xla.gpu.triton" in calls(program)
    assert program.memory_analysis().temp_size_in_bytes < 1.5 * inputs


@pytest.mark.parametrize("train", (False, True))
def test_float32_on_a_gpu_is_xla_in_blocks_of_queries(devices, train):
    program, _, logits = compiled(
        devices("h100:1x1")[0], 4680, 32760, "gpu", dtype=jnp.float32, train=train
    )
    assert not [call for call in calls(program) if "fmha" in call or "triton" in call]
    assert program.memory_analysis().temp_size_in_bytes < logits / 3


@pytest.mark.parametrize(
    "name, form, call",
    [("v5p:2x2x1", "tpu", "tpu_custom_call"), ("h100:1x4", "gpu", "__cudnn$fmhaSoftmax")],
)
def test_each_device_of_a_mesh_runs_its_own_queries(devices, name, form, call):
    if form == "gpu":
        pytest.importorskip("nvidia.cudnn")
    mesh = Mesh(devices(name), ("context",), axis_types=(AxisType.Auto,))
    cut, whole = P(None, "context"), P()

    def local(q, k, v, length):
        k, v = (jax.lax.all_gather(x, "context", axis=1, tiled=True) for x in (k, v))
        return attention(q, k, v, kv_length=length, implementation=form)

    function = jax.shard_map(
        local, mesh=mesh, in_specs=(cut, cut, cut, whole), out_specs=cut, check_vma=False
    )
    args = [
        jax.ShapeDtypeStruct((1, n, HEADS, DIM), jnp.bfloat16, sharding=NamedSharding(mesh, cut))
        for n in (37440, 132160, 132160)
    ]
    length = jax.ShapeDtypeStruct((1,), jnp.int32, sharding=NamedSharding(mesh, whole))
    program = jax.jit(function).lower(*args, length).compile()
    assert call in calls(program)
    moved = re.findall(
        r"= \S+ (all-gather|all-to-all|all-reduce|collective-permute)", program.as_text()
    )
    assert set(moved) <= {"all-gather"}

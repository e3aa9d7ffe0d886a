"""RAFT against torchvision's, and the parts that AMT-S is made of against PyTorch's operators.

AMT-S itself is in no package: `tests/golden/make_flow.py` ran the published one.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bvjax.lvbench.nets import conv, correlation, raft, sampling
from experiments.benchmarks import metric_networks_torch as twins
from tests.golden import flow_cases
from tests.golden.recipe import uniform

_NAMES = (  # published, torchvision's
    ("fnet.conv1.", "feature_encoder.convnormrelu.0."),
    ("cnet.conv1.", "context_encoder.convnormrelu.0."),
    ("cnet.norm1.", "context_encoder.convnormrelu.1."),
    ("fnet.conv2.", "feature_encoder.conv."),
    ("cnet.conv2.", "context_encoder.conv."),
    ("fnet.", "feature_encoder."),
    ("cnet.", "context_encoder."),
    ("update_block.encoder.conv.", "update_block.motion_encoder.conv.0."),
    ("update_block.encoder.convc", "update_block.motion_encoder.convcorr"),
    ("update_block.encoder.convf", "update_block.motion_encoder.convflow"),
    ("update_block.mask.0.", "mask_predictor.convrelu.0."),
    ("update_block.mask.2.", "mask_predictor.conv."),
)


def test_raft(record_parity):
    """The published sizes and names; torchvision takes pictures from -1 to 1."""
    try:
        net = twins.raft()
    except ImportError:
        pytest.skip("torchvision is not installed")
    tensors = flow_cases.tensors("raft_things")
    renamed = {_torchvision(name): torch.from_numpy(x) for name, x in tensors.items()}
    lost = net.load_state_dict(renamed, strict=False)
    assert not lost.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in lost.missing_keys)
    first, second = (np.float32(frame)[None] for frame in flow_cases.frames())
    given = [_nchw(frame) / 127.5 - 1 for frame in (first, second)]
    with torch.inference_mode():
        want = _nhwc(net(*given, num_flow_updates=4)[-1])
    got = jax.jit(raft.flow)(raft.prepare(tensors), first, second, 4)
    size = np.abs(want).max()
    error = np.abs(want - np.asarray(got)).max()
    record_parity("LV-Bench: RAFT", "torchvision raft_large", error, 1e-4 * size, size)


@pytest.mark.parametrize("outside", sampling.OUTSIDE)
def test_sampling(outside, record_parity):
    pictures, at = uniform("pictures", (2, 9, 12, 5)), 8 * uniform("at", (2, 20, 15, 2)) + 5
    scale = torch.tensor([2 / 11, 2 / 8])
    want = F.grid_sample(
        _nchw(pictures), torch.from_numpy(at) * scale - 1, padding_mode=outside, align_corners=True
    )
    error = np.abs(_nhwc(want) - jax.jit(sampling.sample, static_argnums=2)(pictures, at, outside))
    record_parity(f"LV-Bench: sampling, {outside}", "torch F.grid_sample", error.max(), 2e-5, 1.7)


def test_pooling_and_transposed_convolution(record_parity):
    first, second = uniform("first", (2, 3, 4, 16)), uniform("second", (2, 17, 23, 16))
    products = np.einsum("byxd,bvud->byxvu", first, second) / 4
    want = torch.from_numpy(products).reshape(24, 1, 17, 23)
    for level in correlation.pyramid(first, second, radius=1):
        inside = np.asarray(level)[:, 4:-4, 4:-4]
        error, size = np.abs(want[:, 0].numpy() - inside).max(), np.abs(inside).max()
        reference = "torch F.avg_pool2d"
        record_parity("LV-Bench: correlation pyramid", reference, error, 1e-5 * size, size)
        want = F.avg_pool2d(want, 2, stride=2) if min(want.shape[2:]) > 3 else want
    x, kernel, bias = (
        uniform(n, s) for n, s in (("x", (2, 5, 6, 7)), ("k", (7, 3, 4, 4)), ("b", (3,)))
    )
    want = F.conv_transpose2d(_nchw(x), torch.from_numpy(kernel), torch.from_numpy(bias), 2, 1)
    got = jax.jit(conv.doubling)(x, conv.doubling_kernel(kernel), bias)
    size = want.abs().max().item()
    error = np.abs(_nhwc(want) - got).max()
    record_parity("LV-Bench: doubling", "torch F.conv_transpose2d", error, 1e-5 * size, size)


def _torchvision(name: str) -> str:
    for ours, theirs in _NAMES:
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
            break
    if "_encoder.layer" in name:
        for i in (1, 2):
            name = name.replace(f".conv{i}.", f".convnormrelu{i}.0.")
            name = name.replace(f".norm{i}.", f".convnormrelu{i}.1.")
    for kind in ("corr", "flow"):  # convolution and activation in one
        for i in (1, 2):
            name = name.replace(
                f"motion_encoder.conv{kind}{i}.", f"motion_encoder.conv{kind}{i}.0."
            )
    for i in (1, 2):
        for gate in "zrq":
            name = name.replace(f"gru.conv{gate}{i}", f"recurrent_block.convgru{i}.conv{gate}")
    return name


def _nchw(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(x)).permute(0, 3, 1, 2)


def _nhwc(x: torch.Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 1).numpy()

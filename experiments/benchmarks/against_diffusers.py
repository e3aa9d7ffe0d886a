"""DiT forward, VAE decode and umT5 against diffusers and transformers, on the same random weights:

.venv-torch/bin/python -m experiments.benchmarks.against_diffusers

Both in float32, in this process, by turns, each with all cores of the machine; PyTorch eager in
inference mode with its scaled-dot-product attention.  Weights are made by PyTorch, saved, and
converted by bvjax.  Included: the forward pass, with inputs and outputs on the device.  Not included:
loading, compiling (one warm-up each, and its time is told), tokenizing.  Beside each library stands
the rate at which it multiplies two large matrices: the ceiling of what it could do here.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # PyTorch's idle threads must not spin

import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import app, flags
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from bvjax.chunking import ChunkGrid
from bvjax.config import ChunkConfig
from bvjax.convert.converter import convert
from bvjax.nets import vae
from bvjax.nets.dit import WanDiT
from bvjax.nets.text import UMT5Encoder
from bvjax.weights import load_weights

_REPEAT = flags.DEFINE_integer("repeat", 5, "Turns; the median is told.", lower_bound=1)
_LAYERS = flags.DEFINE_integer(
    "layers", 4, "Of the 30 of the DiT and the 24 of umT5, at full width."
)
_ONLY = flags.DEFINE_multi_enum("only", [], ["dit", "vae", "text"], "Only these.")


class Pair(NamedTuple):
    """The same computation twice, each returning when it is done."""

    name: str
    flops: float  # 0: not counted
    torch: Callable[[], np.ndarray]
    jax: Callable[[], np.ndarray]


def both(folder: Path, part: str, subfolder: str, module) -> tuple:
    """Saves a PyTorch module, converts it, and loads it here: (model config, params)."""
    module.save_pretrained(folder / subfolder)
    convert(folder / subfolder, folder / f"bvjax-{part}", "bvjax")
    model, params = load_weights(folder / f"bvjax-{part}", (part,))
    return model, jax.device_put(params[part])


def dit_pair(folder: Path) -> Pair:
    """Three latents of 256x256 pixels: 768 tokens, 512 rows of text."""
    module = WanTransformer3DModel(
        num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, num_layers=_LAYERS.value
    ).eval()
    model, params = both(folder, "dit", "transformer", module)
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((1, 3, 32, 32, 16), np.float32)
    text = rng.standard_normal((1, 512, 4096), np.float32)
    net = WanDiT(
        model.dit.__class__(**{**vars(model.dit), "dtype": "float32", "remat": "none"}), 4096
    )
    chunk = ChunkConfig(height=256, width=256, frames=12, first="joined")
    positions = jnp.asarray(ChunkGrid(chunk, 1).positions(3))[None, None]
    forward = jax.jit(
        lambda p, x, t: net.apply({"params": p}, x, jnp.full((1, 1), 0.5), t, positions)[0]
    )
    ours = [jnp.asarray(latents[:, None]), jnp.asarray(text[:, None])]
    theirs = [torch.from_numpy(latents).permute(0, 4, 1, 2, 3), torch.from_numpy(text)]
    dim, ffn, n, t = 1536, 8960, 768, 512
    layer = 2 * n * dim * (6 * dim + 2 * ffn) + 2 * 2 * t * dim * dim + 4 * n * (n + t) * dim
    embed = 2 * t * 4096 * dim + 2 * t * dim * dim

    def run_torch():
        out = module(theirs[0], torch.tensor([500.0]), theirs[1], return_dict=False)[0]
        return out.permute(0, 2, 3, 4, 1).numpy()

    def run_jax():
        return np.asarray(forward(params, *ours))[:, 0]

    name = f"DiT, 1.3B wide, {_LAYERS.value} layers, {n} tokens"
    return Pair(name, layer * _LAYERS.value + embed, run_torch, run_jax)


def vae_pair(folder: Path) -> Pair:
    """Wan2.1's VAE, whole: 3 latents to 9 frames of 128x128."""
    module = AutoencoderKLWan().eval()
    model, params = both(folder, "vae", "vae", module)
    z = np.random.default_rng(0).standard_normal((1, 3, 16, 16, 16), np.float32)
    decode = jax.jit(lambda p, z: vae.decode(p, model.vae, z))
    ours = jnp.asarray(z)
    raw = torch.from_numpy(np.asarray(vae.denormalise(model.vae, z)).copy()).permute(0, 4, 1, 2, 3)

    def run_torch():
        return module.decode(raw, return_dict=False)[0].permute(0, 2, 3, 4, 1).numpy()

    name = "VAE decode, 9 frames of 128x128"
    return Pair(name, 0.0, run_torch, lambda: np.asarray(decode(params, ours)))


def text_pair(folder: Path) -> Pair:
    """umT5 at full width with a small vocabulary: 512 tokens, 120 of them valid."""
    config = UMT5Config(
        vocab_size=1000, d_model=4096, d_kv=64, d_ff=10240, num_heads=64, num_layers=_LAYERS.value
    )
    module = UMT5EncoderModel(config).eval()
    model, params = both(folder, "text", "text_encoder", module)
    ids = np.random.default_rng(0).integers(2, 1000, (1, 512)).astype(np.int32)
    mask = np.arange(512)[None] < 120
    encode = jax.jit(lambda p, ids, mask: UMT5Encoder(model.text).apply({"params": p}, ids, mask))
    theirs = [torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(mask.astype(np.int64))]

    def run_torch():
        states = module(theirs[0], theirs[1]).last_hidden_state.numpy()
        return states * mask[..., None]  # the pipeline cuts them off

    layer = 2 * 512 * 4096 * (4 * 4096 + 3 * 10240) + 4 * 512 * 512 * 4096
    name = f"umT5-xxl, {_LAYERS.value} layers, 512 tokens"
    return Pair(
        name, layer * _LAYERS.value, run_torch, lambda: np.asarray(encode(params, ids, mask))
    )


def ceiling(size: int = 4096) -> tuple[float, float]:
    """FLOP/s of one large float32 product at its best of ten: (PyTorch, JAX)."""
    a = np.random.default_rng(0).standard_normal((size, size), np.float32)
    x, y = torch.from_numpy(a), jnp.asarray(a)
    product = jax.jit(jnp.matmul)
    turns = (
        (_timed(lambda: x @ x), _timed(lambda: product(y, y).block_until_ready()))
        for _ in range(10)
    )
    return tuple(2 * size**3 / min(seconds) for seconds in zip(*turns, strict=True))


def _timed(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(pair: Pair) -> str:
    """One row of the table; raises when the two do not agree."""
    start = time.perf_counter()
    ours = pair.jax()
    compiled = time.perf_counter() - start
    theirs = pair.torch()
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    if not error < 1e-3:
        raise SystemExit(f"{pair.name}: results differ by {error:.1e} of the largest")
    turns = [(_timed(pair.torch), _timed(pair.jax)) for _ in range(_REPEAT.value)]
    torch_s, jax_s = (statistics.median(column) for column in zip(*turns, strict=True))
    rates = [f"{pair.flops / s / 1e9:.0f}" if pair.flops else "-" for s in (torch_s, jax_s)]
    return (
        f"| {pair.name} | {torch_s:.2f} s | {jax_s:.2f} s | {torch_s / jax_s:.2f} | {rates[0]} | {rates[1]} "
        f"| {compiled:.1f} s | {error:.0e} |"
    )


def main(argv) -> None:
    del argv
    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(0)
    makers = {"dit": dit_pair, "vae": vae_pair, "text": text_pair}
    print(
        "| what | PyTorch | bvjax | speed-up | PyTorch, GF/s | bvjax, GF/s | first call | error |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with torch.inference_mode():
        for name in _ONLY.value or makers:
            with tempfile.TemporaryDirectory() as folder:
                print(compare(makers[name](Path(folder))), flush=True)
        theirs, ours = ceiling()
    print(
        f"\nOne 4096x4096 float32 product, best of ten: PyTorch {theirs / 1e9:.0f} GF/s, JAX {ours / 1e9:.0f} GF/s. "
        f"torch {torch.__version__}, jax {jax.__version__}, {os.cpu_count()} cores."
    )


if __name__ == "__main__":
    app.run(main)

"""PyTorch's side of `against_torch`: the same programs eager, in inference mode, with SDPA.

On a GPU each block of the DiT is compiled, too (`torch.compile`), where a request says so; the VAE
and the text encoder are those of diffusers and transformers, and so is the DiT of the pair `dit`
where diffusers is installed.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"  # which only makes the inputs here

import numpy as np
import torch

from bvjax.chunking import ChunkGrid
from bvjax.conversion import formats
from bvjax.nets import vae
from experiments.benchmarks import inputs, peak_flops, workload
from experiments.benchmarks.chunk_work import chunk_work, one_layer, positions_of
from experiments.benchmarks.interleave import seconds_per_call, serve
from experiments.benchmarks.torch_chunk import ChunkStep, network, state_dict
from experiments.benchmarks.workload import MINUTE, Workload

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CLASSES = Path(formats.__file__).parent / "torch_classes"


def _dtype(task: Workload) -> torch.dtype:
    return getattr(torch, task.dtype)


def dit(task: Workload) -> Callable[[], torch.Tensor]:
    model, params = task.load("dit")
    grid, plain = ChunkGrid.of(model), formats.plain_dit(model.dit)
    x = torch.tensor(workload.latents(model, grid.latents_per_chunk), device=DEVICE)
    text = torch.tensor(inputs.chunk_input(model, 1).text, device=DEVICE, dtype=_dtype(task))[None]
    if not (plain and importlib.util.find_spec("diffusers")):
        net = network(model, params["dit"], DEVICE, _dtype(task))
        places = torch.tensor(positions_of(model)[1], device=DEVICE, dtype=_dtype(task))
        rotation = torch.tensor(positions_of(model)[0], device=DEVICE)
        return lambda: net(x, 0.5, text, (rotation.cos(), rotation.sin()), places)
    from diffusers import WanTransformer3DModel

    config = formats.config_file(model, "dit", "diffusers")[1]
    module = WanTransformer3DModel.from_config(config)
    module.load_state_dict(state_dict(model, "dit", "diffusers", params["dit"]))
    module = _moved(module, task)
    x, level = x.permute(3, 0, 1, 2)[None].to(_dtype(task)), torch.tensor([500.0], device=DEVICE)
    return lambda: module(x, level, text, return_dict=False)[0][0].permute(1, 2, 3, 0)


def chunk(task: Workload, compiled: bool = False) -> Callable[[], torch.Tensor]:
    model, params = task.load("dit")
    number, single_layer = inputs.steady_chunk(model), one_layer(model)
    step_inputs = chunk_work(
        single_layer,
        inputs.full_state(single_layer, number),
        inputs.chunk_input(single_layer, number),
    )
    net = network(model, params["dit"], DEVICE, _dtype(task))
    if compiled:
        for block in net.blocks:
            block.compile()
    step = ChunkStep(net, step_inputs)
    return lambda: step()[0]


def decode(task: Workload) -> Callable[[], torch.Tensor]:
    model, params = task.load("vae")
    module = _autoencoder(model, params["vae"], task)
    z = _raw(model, workload.latents(model, ChunkGrid.of(model).latents_per_chunk), task)
    return lambda: _decoded(module, z)


def text(task: Workload) -> Callable[[], torch.Tensor]:
    from transformers import UMT5Config, UMT5EncoderModel

    model, params = task.load("text")
    config = formats.config_file(model, "text", "diffusers")[1]
    module = UMT5EncoderModel(UMT5Config(**config))
    module.load_state_dict(state_dict(model, "text", "transformers", params["text"]), strict=False)
    module = _moved(module, task)
    ids, mask = (torch.tensor(x, device=DEVICE).long() for x in workload.caption(model))
    # the rows of padding are cut off
    return lambda: module(ids, mask).last_hidden_state[0] * mask[0, :, None]


def minute(task: Workload, compiled: bool = False) -> Callable[[], torch.Tensor]:
    model, params = task.load("dit", "vae")
    step, count = chunk(task, compiled), ChunkGrid.of(model).latents_per_chunk
    module = _autoencoder(model, params["vae"], task)
    z = _raw(model, workload.latents(model, 1 + MINUTE * count), task)

    def whole():
        for _ in range(MINUTE):
            step()
        return _decoded(module, z)[-model.chunk.frames :]

    return whole


def attend(task: Workload) -> Callable[[], torch.Tensor]:
    n, s, heads, width = task.shape
    q, k, v = (
        torch.randn(1, rows, heads, width, device=DEVICE, dtype=_dtype(task)).transpose(1, 2)
        for rows in (n, s, s)
    )
    return lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v)


def _autoencoder(model, params, task: Workload):
    from diffusers import AutoencoderKLWan

    config = formats.config_file(model, "vae", "diffusers")[1]
    kind = AutoencoderKLWan
    if "auto_map" in config:
        from bvjax.conversion.torch_classes.autoencoder_bvjax import BvjaxAutoencoderKL as kind
    config = {k: v for k, v in config.items() if k != "auto_map"}
    module = kind.from_config(config)
    module.load_state_dict(state_dict(model, "vae", "diffusers", params))
    return _moved(module, task)


def _moved(module, task: Workload):
    module = module.to(DEVICE).eval()
    return module if task.dtype == "float32" else module.to(_dtype(task))


def _raw(model, latents: np.ndarray, task: Workload) -> torch.Tensor:
    raw = np.array(vae.denormalise(model.vae, latents))
    return torch.tensor(raw, device=DEVICE, dtype=_dtype(task)).permute(3, 0, 1, 2)[None]


def _decoded(module, z: torch.Tensor) -> torch.Tensor:
    return module.decode(z, return_dict=False)[0][0].permute(1, 2, 3, 0)


BUILD = dict(dit=dit, chunk=chunk, vae=decode, text=text, minute=minute, attention=attend)


@functools.lru_cache(maxsize=1)
def program(task: Workload, compiled: bool) -> Callable[[], torch.Tensor]:
    """Returns the program of `task`; only that of the last request is kept."""
    more = dict(compiled=True) if compiled else {}
    return BUILD[task.pair](task, **more)


def measured_peak(dtype: str) -> float:
    """FLOP/s, as `peak_flops.measured`."""
    size = peak_flops.default_size(DEVICE, dtype)
    x = torch.randn(size, size, device=DEVICE, dtype=getattr(torch, dtype))

    def run():
        for _ in range(peak_flops.BATCH):
            x @ x
        _wait()

    return peak_flops.BATCH * 2 * size**3 / peak_flops.fastest(run)


def _wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


@torch.inference_mode()
def answer(request: dict) -> float | str:
    """Answers as `jax_side.answer`; {"compiled": true} compiles the blocks of the DiT."""
    if "version" in request:
        return f"torch {torch.__version__}"
    if "peak_flops" in request:
        return measured_peak(request["peak_flops"])
    run = program(Workload.of(request["task"]), request.get("compiled", False))

    def whole():
        result = run()
        _wait()
        return result

    if "save" in request:
        start = time.perf_counter()
        np.save(request["save"], whole().float().cpu().numpy())
        return time.perf_counter() - start
    return seconds_per_call(whole)


if __name__ == "__main__":
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.backends.cuda.matmul.allow_tf32 = False
    serve(workload.guarded(answer))

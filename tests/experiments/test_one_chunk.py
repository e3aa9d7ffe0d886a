"""The benchmark of a full-size checkpoint, on a small one."""

import dataclasses

import numpy as np
import pytest

from bvjax import weights
from bvjax.config import DiTConfig
from bvjax.presets import get_preset
from bvjax.tensor_files import TensorFile
from experiments.benchmarks import one_chunk
from experiments.benchmarks.clock import Clock


@pytest.mark.slow
def test_a_random_checkpoint_makes_a_chunk(tmp_path):
    wan = get_preset("wan-1.3b")
    dit = DiTConfig(dim=48, num_heads=2, num_layers=2, ffn_dim=64, freq_dim=16, dtype="bfloat16")
    text = dataclasses.replace(wan.text, dim=16)
    model = one_chunk.small(dataclasses.replace(wan, dit=dit, text=text), 32, 2)
    path = tmp_path / "dit.safetensors"
    one_chunk.write_checkpoint(path, model)
    infos = TensorFile(path).infos
    assert {info.dtype for info in infos.values()} == {"bfloat16"}
    assert infos["blocks/1/ffn/0/kernel"].shape == (48, 64)
    loaded = weights.flatten(weights.load_tensors(path, weights.shapes(model, "dit"), dtype=None))
    kernel = np.asarray(loaded["blocks/ffn/0/kernel"], np.float32)
    assert kernel.shape == (2, 48, 64) and abs(kernel.std() * 48**0.5 - 1) < 0.05
    assert np.abs(kernel[0] - kernel[1]).max() > 0.1
    clock = Clock()
    deviation, peaks = one_chunk.run_chunk(path, model, clock)
    assert deviation > 0.1 and set(clock.seconds) == {"load", "compile", "denoise", "memory write"}
    text = one_chunk.report(model, clock, deviation, peaks)
    assert "3 latent frames, 12 tokens, bfloat16 matmuls" in text and "(2 steps)" in text

"""LoRA files of all kinds for the tiny model."""

from __future__ import annotations

import pathlib

import numpy as np
from safetensors.numpy import save_file

RANK = 3


def lora(seed: int = 0) -> dict[str, np.ndarray]:
    """A LoRA of attention in both layers, of a projection in one, and of the convolution of patches."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32) / 4
    tensors = {}
    for module, out, width in (
        ("blocks.0.self_attn.q", 32, 32),
        ("blocks.1.self_attn.q", 32, 32),
        ("blocks.1.ffn.0", 64, 32),
        ("head.head", 64, 32),
    ):
        name = f"diffusion_model.{module}"
        tensors |= {f"{name}.lora_down.weight": draw(RANK, width)}
        tensors |= {f"{name}.lora_up.weight": draw(out, RANK)}
        tensors[f"{name}.alpha"] = np.array(6.0, np.float32)
    name = "diffusion_model.patch_embedding"
    tensors |= {f"{name}.lora_down.weight": draw(RANK, 16, 1, 2, 2)}
    tensors |= {f"{name}.lora_up.weight": draw(32, RANK, 1, 1, 1)}
    return tensors


def relatives(seed: int = 1) -> dict[str, np.ndarray]:
    """A DoRA, a LoHa, a LoKr and whole changes of a weight, a bias and a modulation in one file."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32) / 4
    return {
        "blocks.0.self_attn.q.lora_A.weight": draw(RANK, 32),
        "blocks.0.self_attn.q.lora_B.weight": draw(32, RANK),
        "blocks.0.self_attn.q.lora_magnitude_vector": rng.uniform(0.5, 2, 32).astype(np.float32),
        "blocks.0.cross_attn.v.hada_w1_a": draw(32, RANK),
        "blocks.0.cross_attn.v.hada_w1_b": draw(RANK, 32),
        "blocks.0.cross_attn.v.hada_w2_a": draw(32, 2),
        "blocks.0.cross_attn.v.hada_w2_b": draw(2, 32),
        "blocks.1.ffn.0.lokr_w1": draw(4, 8),
        "blocks.1.ffn.0.lokr_w2_a": draw(16, RANK),
        "blocks.1.ffn.0.lokr_w2_b": draw(RANK, 4),
        "blocks.1.ffn.2.diff": draw(32, 64),
        "blocks.1.ffn.2.diff_b": draw(32),
        "blocks.0.diff_m": draw(1, 6, 32),
    }


def save(path: pathlib.Path, tensors: dict[str, np.ndarray]) -> pathlib.Path:
    """Writes a file; returns its path."""
    save_file(tensors, path)
    return path

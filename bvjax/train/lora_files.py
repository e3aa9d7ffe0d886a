"""The files of a trained LoRA: in the names of diffusers, of PEFT and of ComfyUI, each loadable there and here.

pytorch_lora_weights.safetensors   diffusers: alpha / rank is in `up`, as diffusers expects where nothing says alpha
adapter_model.safetensors          PEFT, for the transformer of diffusers, with adapter_config.json beside it
comfyui.safetensors                ComfyUI and WanVideoWrapper: Wan's own names, alpha as a tensor
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from bvjax.errors import UserError
from bvjax.files import write_json
from bvjax.finite import is_finite
from bvjax.tensor_files import TensorInfo, TensorWriter
from bvjax.train.lora import LoraConfig, Module, Target

DIFFUSERS, PEFT = "pytorch_lora_weights.safetensors", "adapter_model.safetensors"
COMFYUI, PEFT_CONFIG = "comfyui.safetensors", "adapter_config.json"


def write_lora(
    folder: Path,
    targets: tuple[Target, ...],
    factors: Mapping[str, Mapping[str, Any]],
    config: LoraConfig,
    meta: Mapping[str, Any],
    dtype: str,
) -> None:
    """Writes all files into `folder`, each whole or not at all.

    Args:
        factors: by leaf, of `targets`.
        meta: what made them; goes into the files' metadata.
        dtype: of the tensors; alphas are float32.

    Raises:
        UserError: a value is not finite in `dtype`.
    """
    scale = np.float32(config.scale)
    tensors: dict[str, dict[str, np.ndarray]] = {DIFFUSERS: {}, PEFT: {}, COMFYUI: {}}
    modules = []
    for module, down, up in _pairs(targets, factors):
        modules.append(module.diffusers)
        for name, (left, right) in {
            DIFFUSERS: (f"transformer.{module.diffusers}.lora_A", f"transformer.{module.diffusers}.lora_B"),
            PEFT: (f"base_model.model.{module.diffusers}.lora_A", f"base_model.model.{module.diffusers}.lora_B"),
            COMFYUI: (f"diffusion_model.{module.wan}.lora_down", f"diffusion_model.{module.wan}.lora_up"),
        }.items():  # fmt: skip
            tensors[name][f"{left}.weight"] = down
            tensors[name][f"{right}.weight"] = up * scale if name == DIFFUSERS else up
        alpha = np.array(config.scale * config.rank, np.float32)
        tensors[COMFYUI][f"diffusion_model.{module.wan}.alpha"] = alpha
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "pt", "bvjax": json.dumps(dict(meta))}
    for name, content in tensors.items():
        _write(folder / name, content, metadata, dtype)
    settings = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": config.scale * config.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": modules,
    }
    write_json(folder / PEFT_CONFIG, settings)


def _pairs(
    targets: tuple[Target, ...], factors: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[Module, np.ndarray, np.ndarray]]:
    """Each module with its factors in the shapes of PyTorch; those of a convolution have its axes."""
    for target in targets:
        down, up = (np.asarray(factors[target.key][role], np.float32) for role in ("down", "up"))
        for number, module in enumerate(target.modules):
            _, _, *spatial = module.spec.external_shape
            shape = module.spec.external_shape[1:]
            yield (
                module,
                down[number].reshape(-1, *shape),
                up[number].reshape(*up[number].shape, *(1 for _ in spatial)),
            )


def _write(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str], dtype: str
) -> None:
    kinds = {name: "float32" if not array.ndim else dtype for name, array in tensors.items()}
    infos = {name: TensorInfo(array.shape, kinds[name]) for name, array in tensors.items()}
    with TensorWriter(path, infos, metadata) as writer:
        for name, array in tensors.items():
            with np.errstate(over="ignore"):  # reported below, by name
                stored = array.astype(jnp.dtype(kinds[name]))
            if not is_finite(stored):
                raise UserError(f"{name} has values that are not finite in {kinds[name]}")
            writer.write(name, stored)

"""LoRAs merged here against LoRAs at work in PyTorch, and against diffusers' reading of the keys."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_wan_lora_to_diffusers
from safetensors.torch import save_file

from bvjax import weights
from bvjax.conversion import lora
from tests.support.merged_lora import merge
from tests.torch import builders
from tests.torch.builders import difference, size
from tests.torch.twins import state_dict

RANK, ALPHA, STRENGTH = 2, 5.0, 0.75
NAMES = {
    "self_attn.q": "attn1.to_q",
    "self_attn.k": "attn1.to_k",
    "self_attn.v": "attn1.to_v",
    "self_attn.o": "attn1.to_out.0",
    "cross_attn.q": "attn2.to_q",
    "cross_attn.k": "attn2.to_k",
    "cross_attn.v": "attn2.to_v",
    "cross_attn.o": "attn2.to_out.0",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}
MODULES = {f"blocks.{i}.{a}": f"blocks.{i}.{b}" for i in (0, 1) for a, b in NAMES.items()}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """(their transformer, our configuration, our parameters, the LoRA as the trainers save it)."""
    theirs = builders.transformer()
    ours, params = builders.ours(theirs, tmp_path_factory.mktemp("dit"))
    torch.manual_seed(0)
    tensors = {}
    for module, there in MODULES.items():
        linear = theirs.get_submodule(there)
        name = f"diffusion_model.{module}"
        tensors[f"{name}.lora_down.weight"] = torch.randn(RANK, linear.in_features) / 4
        tensors[f"{name}.lora_up.weight"] = torch.randn(linear.out_features, RANK) / 4
        tensors[f"{name}.alpha"] = torch.tensor(ALPHA)
    return theirs, ours, params, tensors


def with_lora(model, tensors, folder):
    _, ours, params, _ = model
    path = folder / "lora.safetensors"
    save_file({name: x.contiguous() for name, x in tensors.items()}, path)
    return merge(params, [lora.open_lora(path, STRENGTH, ours)])


@torch.no_grad()
def test_against_the_low_rank_branches_at_work(model, tmp_path, record_parity):
    """y = W x + b + strength * alpha / rank * up (down x), unmerged, in the model of diffusers."""
    theirs, ours, params, tensors = model

    def branch(name):
        down, up = (tensors[f"diffusion_model.{name}.lora_{x}.weight"] for x in ("down", "up"))
        return lambda module, inputs, out: (
            out + STRENGTH * (ALPHA / RANK) * (inputs[0] @ down.T) @ up.T
        )

    config = dict(theirs.config)
    merged = WanTransformer3DModel.from_config(config).eval()
    merged.load_state_dict(state_dict(ours, "dit", with_lora(model, tensors, tmp_path)))
    latents, text = torch.randn(2, 4, 2, 4, 6), torch.randn(2, 5, 12)
    timestep = torch.tensor([300.0, 900.0])
    plain = theirs(latents, timestep, text).sample
    hooks = [
        theirs.get_submodule(there).register_forward_hook(branch(name))
        for name, there in MODULES.items()
    ]
    want = theirs(latents, timestep, text).sample
    for hook in hooks:
        hook.remove()
    assert difference(want, plain) > 0.1
    error = difference(merged(latents, timestep, text).sample, want)
    record_parity("LoRA, merged", "the low-rank branches in PyTorch", error, 5e-5, size(want))


def test_the_keys_as_diffusers_reads_them(model, tmp_path, record_parity):
    """diffusers renames such files, and multiplies alpha / rank in; we take both forms."""
    tensors = model[3]
    # copies, because it scales some of them in place
    copies = {name: x.clone() for name, x in tensors.items()}
    renamed = _convert_non_diffusers_wan_lora_to_diffusers(copies)
    assert set(renamed) == {
        f"transformer.{there}.lora_{x}.weight" for there in MODULES.values() for x in "AB"
    }
    a, b = (weights.flatten(with_lora(model, x, tmp_path)) for x in (tensors, renamed))
    before = weights.flatten(model[2])
    assert sum(np.any(a[leaf] != before[leaf]) for leaf in before) == len(NAMES)
    error = max(difference(a[leaf], b[leaf]) for leaf in a)
    record_parity("LoRA keys, merged weights", "diffusers' renaming", error, 1e-6)

"""A LoRA trained here, loaded by diffusers and by peft: their outputs are ours."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from peft import PeftModel
from safetensors.torch import load_file

from bvjax.train.lora import LoraConfig, find_targets, init_factors, merge
from bvjax.train.lora_files import COMFYUI, DIFFUSERS, write_lora
from tests.torch import builders
from tests.torch.builders import difference, size
from tests.torch.twins import state_dict

CONFIG = LoraConfig(
    rank=3, alpha=5.0, targets=r"blocks\..*\.(self_attn|cross_attn|ffn)\..*|patch_embedding"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder of the files, inputs, our output, output without)."""
    folder = tmp_path_factory.mktemp("lora")
    theirs = builders.transformer()
    model, params = builders.ours(theirs, folder / "dit")
    targets = find_targets(model, CONFIG)
    rng = np.random.default_rng(0)
    factors = jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype(np.float32) / 4,
        init_factors(targets, CONFIG.rank, jax.random.key(0)),
    )
    write_lora(folder, targets, factors, CONFIG, {}, "float32")
    merged = WanTransformer3DModel.from_config(dict(theirs.config)).eval()
    whole = merge(params, factors, targets, CONFIG.scale)
    merged.load_state_dict(state_dict(model, "dit", whole))
    torch.manual_seed(1)
    inputs = torch.randn(2, 4, 2, 4, 6), torch.tensor([300.0, 900.0]), torch.randn(2, 5, 12)
    with torch.no_grad():
        want, plain = merged(*inputs).sample, theirs(*inputs).sample
    assert difference(want, plain) > 0.1
    return folder, inputs, want


@torch.no_grad()
def test_in_diffusers(trained, record_parity):
    folder, inputs, want = trained
    network = builders.transformer()
    network.load_lora_adapter(load_file(folder / DIFFUSERS), prefix="transformer")
    error = difference(network(*inputs).sample, want)
    record_parity("LoRA trained here", "diffusers load_lora_adapter", error, 5e-5, size(want))


@torch.no_grad()
def test_comfyui_names_in_diffusers(trained, record_parity):
    """diffusers reads what ComfyUI reads, by its own renaming."""
    from diffusers.loaders.lora_conversion_utils import (
        _convert_non_diffusers_wan_lora_to_diffusers as renamed,
    )

    folder, inputs, want = trained
    tensors = {n: x for n, x in load_file(folder / COMFYUI).items() if "patch_embedding" not in n}
    plain = {n: x for n, x in load_file(folder / DIFFUSERS).items() if "patch_embedding" not in n}
    theirs = renamed(tensors)
    assert theirs.keys() == plain.keys()
    a, b = (
        {n: theirs[n.replace("lora_A", "lora_B")] @ x for n, x in one.items() if "lora_A" in n}
        for one, theirs in ((theirs, theirs), (plain, plain))
    )
    error = max(difference(a[n], b[n]) for n in a)
    record_parity("LoRA trained here, ComfyUI's names", "diffusers' renaming", error, 1e-5)


@torch.no_grad()
def test_in_peft(trained, record_parity):
    folder, inputs, want = trained
    network = PeftModel.from_pretrained(builders.transformer(), str(folder)).eval()
    error = difference(network(*inputs).sample, want)
    record_parity("LoRA trained here", "peft PeftModel.from_pretrained", error, 5e-5, size(want))

"""DoRA, LoHa and LoKr at work in peft and LyCORIS against the weights that generation merges from their files."""

from __future__ import annotations

import pytest
import torch
from diffusers import WanTransformer3DModel
from lycoris import LycorisNetwork, create_lycoris
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from safetensors.torch import save_file

from bvjax.loading.loras import merge, open_loras
from tests.torch import builders
from tests.torch.builders import difference, size
from tests.torch.twins import state_dict

TARGETS = r"blocks\.\d+\.(attn1\.to_q|attn2\.to_v|attn1\.to_out\.0|ffn\.net\.0\.proj)"
PEFT = {
    "LoRA": LoraConfig(r=2, lora_alpha=5, target_modules=TARGETS),
    "LoRA, rank-stabilised": LoraConfig(r=2, lora_alpha=5, use_rslora=True, target_modules=TARGETS),
    "DoRA": LoraConfig(r=2, lora_alpha=5, use_dora=True, target_modules=TARGETS),
    "LoHa": LoHaConfig(r=2, alpha=5, target_modules=TARGETS),
    "LoKr": LoKrConfig(r=2, alpha=5, target_modules=TARGETS),
    "LoKr, both sides low": LoKrConfig(
        r=2, alpha=5, decompose_both=True, decompose_factor=4, target_modules=TARGETS
    ),
}
LYCORIS = {
    "LoRA": dict(algo="lora"),
    "DoRA": dict(algo="lora", dora_wd=True),
    "DoRA, norms of rows": dict(algo="lora", dora_wd=True, wd_on_output=True),
    "LoHa": dict(algo="loha"),
    "LoKr": dict(algo="lokr", factor=4),
    "LoKr, whole": dict(algo="lokr", factor=4, full_matrix=True),
    "LoKr with DoRA": dict(algo="lokr", factor=4, dora_wd=True),
}


@pytest.fixture(scope="module")
def inputs():
    torch.manual_seed(1)
    return torch.randn(2, 4, 2, 4, 6), torch.tensor([300.0, 900.0]), torch.randn(2, 5, 12)


def randomise(parameters):
    """As after training: no factor is zero."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn_like(parameter) / 4)


@torch.no_grad()
def merged_output(theirs, folder, file, inputs):
    """The output of a transformer with the weights that our merge makes of its file."""
    ours, params = builders.ours(theirs, folder)
    loras = open_loras(file, ours)
    network = WanTransformer3DModel.from_config(dict(theirs.config)).eval()
    network.load_state_dict(state_dict(ours, "dit", merge(params, loras, loras.strengths)))
    return network(*inputs).sample


@pytest.mark.parametrize("kind", PEFT)
def test_against_peft(kind, inputs, tmp_path, record_parity):
    plain = builders.transformer()
    before = plain(*inputs).sample
    adapted = get_peft_model(builders.transformer(), PEFT[kind]).eval()
    randomise(p for p in adapted.parameters() if p.requires_grad)
    adapted.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        want = adapted(*inputs).sample
    merged = merged_output(
        plain, tmp_path / "dit", tmp_path / "adapter/adapter_model.safetensors", inputs
    )
    assert difference(want, before) > 0.01
    error = difference(merged, want)
    record_parity(f"{kind}, merged", "peft's adapter at work", error, 5e-5, size(want))


@pytest.mark.parametrize("kind", LYCORIS)
def test_against_lycoris(kind, inputs, tmp_path, record_parity):
    plain, at_work = builders.transformer(), builders.transformer().eval()
    before = plain(*inputs).sample
    LycorisNetwork.apply_preset(
        {"target_module": [], "target_name": [TARGETS], "use_fnmatch": False}
    )
    network = create_lycoris(at_work, 1.0, linear_dim=2, linear_alpha=5.0, **LYCORIS[kind])
    assert len(network.loras) == 8
    network.apply_to()
    randomise(network.parameters())
    file = tmp_path / "lycoris.safetensors"
    save_file({name: x.contiguous() for name, x in network.state_dict().items()}, file)
    with torch.no_grad():
        want = at_work(*inputs).sample
    merged = merged_output(plain, tmp_path / "dit", file, inputs)
    assert difference(want, before) > 0.01
    error = difference(merged, want)
    record_parity(f"{kind}, merged", "LyCORIS at work", error, 5e-5, size(want))

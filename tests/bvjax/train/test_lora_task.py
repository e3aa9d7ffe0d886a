"""Training of a LoRA: what is trained, what stays, and files that give the same weights when they are read."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax import weights
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.loading import loras
from bvjax.tensor_files import TensorFile
from bvjax.train.config import OneModelConfig
from bvjax.train.lora import LoraConfig, find_targets
from bvjax.train.lora_files import COMFYUI, DIFFUSERS, PEFT
from bvjax.train.lora_task import LoraTask
from bvjax.train.optimizer import OptimizerConfig

TARGETS = r"blocks\.1\.ffn\.0|blocks\.\d+\.attn1\.to_q|patch_embedding|proj_out"


@dataclasses.dataclass(frozen=True, eq=False)
class Pull:
    """An objective whose loss is the distance of all kernels to ones."""

    model: ModelConfig
    weights_dtype: str = "float32"
    part: str = "dit"
    axes: tuple[str, ...] = ("data",)
    frozen: tuple[str, ...] = ()

    def loss(self, params, batch, key):
        far = [
            jnp.square(x - 1).mean() for n, x in weights.flatten(params).items() if "kernel" in n
        ]
        return jnp.stack(far).sum() + 0 * batch["x"].sum(), {}


@pytest.fixture(scope="module")
def trained(tiny):
    """(task, state before, state after three steps, metrics of each step)."""
    task = LoraTask(
        Pull(tiny.model),
        OptimizerConfig(lr=0.05, weight_decay=0.0),
        OneModelConfig(steps=3, global_batch_size=2, device_batch_size=1, ema_decay=0.5),
        lora=LoraConfig(rank=2, alpha=3.0, targets=TARGETS),
    )
    before = task.init_state(0, tiny.params["dit"])
    state, step, seen = before, jax.jit(task.train_step), []
    for _ in range(3):
        state, metrics = step(state, {"x": np.zeros((2, 1), np.float32)})
        seen.append(jax.device_get(metrics))
    return task, before, state, seen


def test_the_dit_stays_and_only_factors_have_moments(trained, tiny):
    task, before, state, seen = trained
    jax.tree.map(np.testing.assert_array_equal, state.base, tiny.params["dit"])
    # It begins as the DiT: up is zero.
    whole = task.merged(before.base, before.params)
    jax.tree.map(np.testing.assert_array_equal, whole, tiny.params["dit"])
    assert seen[0]["loss"] > seen[1]["loss"] > seen[2]["loss"]
    # rank (in + out) of: two q, ffn.0 of one layer, the patches' convolution, the head
    size = 2 * (2 * (32 + 32) + (32 + 64) + (64 + 32) + (32 + 64))
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    assert count(state.params) == count(state.ema) == size
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
    assert count(moments) == 2 * size


def test_the_sum_is_w_plus_alpha_by_rank_up_down(trained, tiny):
    task, _, state, _ = trained
    whole = weights.flatten(task.merged(state.base, state.params))
    base = weights.flatten(tiny.params["dit"])
    changed = {leaf for leaf in base if np.any(whole[leaf] != base[leaf])}
    assert changed == {target.leaf for target in task.targets}
    ffn = state.params["blocks.ffn.0.kernel"]
    change = 3.0 / 2 * np.asarray(ffn["up"][0], np.float64) @ np.asarray(ffn["down"][0])
    got = np.asarray(whole["blocks/ffn/0/kernel"], np.float64) - base["blocks/ffn/0/kernel"]
    np.testing.assert_allclose(got[1], change.T, atol=1e-6)
    np.testing.assert_array_equal(got[0], 0)


def test_its_files_give_the_same_weights(trained, tiny, tmp_path):
    """All three are read by what generation reads; names are those of their users."""
    task, _, state, _ = trained
    task.export(state, tmp_path, {"step": 3})
    want = weights.flatten(task.merged(state.base, state.ema))
    assert (
        np.abs(want["patch_embedding/kernel"] - state.base["patch_embedding"]["kernel"]).max() > 0
    )
    for name in (DIFFUSERS, PEFT, COMFYUI):
        file = tmp_path / "lora" / name
        opened = loras.open_loras(file, tiny.model)
        got = weights.flatten(loras.merge(tiny.params["dit"], opened, opened.strengths))
        for leaf, value in want.items():
            np.testing.assert_allclose(got[leaf], value, atol=2e-6)
    names = set(TensorFile(tmp_path / "lora" / COMFYUI).infos)
    assert "diffusion_model.blocks.1.self_attn.q.lora_down.weight" in names
    assert "diffusion_model.blocks.1.self_attn.q.alpha" in names
    infos = TensorFile(tmp_path / "lora" / DIFFUSERS).infos
    assert infos["transformer.patch_embedding.lora_A.weight"].shape == (2, 16, 1, 2, 2)
    assert infos["transformer.patch_embedding.lora_B.weight"].shape == (32, 2, 1, 1, 1)
    assert "transformer.blocks.1.ffn.net.0.proj.lora_A.weight" in infos
    assert "transformer.blocks.0.ffn.net.0.proj.lora_A.weight" not in infos
    settings = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (2, 3.0)
    assert "blocks.0.attn1.to_q" in settings["target_modules"]


def test_targets_by_either_name(tiny):
    modules = lambda **config: {
        module.wan
        for target in find_targets(tiny.model, LoraConfig(rank=1, **config))
        for module in target.modules
    }
    assert len(modules()) == 2 * (8 + 2)
    assert modules(targets=r".*\.attn2\.to_k") == {f"blocks.{i}.cross_attn.k" for i in (0, 1)}
    with pytest.raises(UserError, match="'q', which is the whole name of no module; there are"):
        modules(targets="q")


def test_what_is_refused(tiny, trained):
    for config, match in (
        ({"rank": -1}, r"lora.rank is -1; it must be 0 \(none\) to"),
        ({"rank": 1, "alpha": -1.0}, "lora.alpha is -1.0"),
        ({"targets": "("}, "lora.targets is .*, which is no regular expression"),
    ):
        with pytest.raises(UserError, match=match):
            LoraConfig(**config)
    task = trained[0]
    wide = dataclasses.replace(task, lora=LoraConfig(rank=33))
    with pytest.raises(UserError, match="lora.rank is 33; .* is 32 x 32, so it can be 1 to 32"):
        wide.init_state(0, tiny.params["dit"])
    with pytest.raises(UserError, match="optimizer.kind is 'muon'; a LoRA is trained with adamw"):
        dataclasses.replace(task, optimizer=OptimizerConfig(kind="muon"))

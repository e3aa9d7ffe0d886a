"""PyTorch's side of `metric_networks`: the metric networks eager, in inference mode.

CLIP and a ViT of DINO's sizes are those of transformers, RAFT is torchvision's; MUSIQ and AMT-S are
the published classes of checkouts.
"""

from __future__ import annotations

import functools
import importlib
import os
import pathlib
import sys
import types
from collections.abc import Callable, Mapping

os.environ["JAX_PLATFORMS"] = "cpu"  # which only makes names and positions here

import numpy as np
import torch

from bvjax.lvbench.nets import dino
from experiments.benchmarks import metric_networks as work
from experiments.benchmarks.interleave import seconds_per_call, serve

Tensors = Mapping[str, np.ndarray]


@functools.cache
def torchvision() -> types.ModuleType:
    """The package, which may lie apart in .venv-torch/vision and lack its compiled operators."""
    extra_folder = pathlib.Path(sys.prefix) / "vision"
    if extra_folder.is_dir() and str(extra_folder) not in sys.path:
        sys.path.append(str(extra_folder))
    if "torchvision" not in sys.modules:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):  # it describes them when imported; nobody here calls them
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        torchvision.library = library  # operators live as long as it does
    return importlib.import_module("torchvision")


def clip(tensors: Tensors, heads: int | None = None) -> torch.nn.Module:
    """transformers' image tower with the tensors of a CLIP checkpoint."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    w = {name.removeprefix("visual."): tensor for name, tensor in tensors.items()}
    width, _, patch, _ = w["conv1.weight"].shape
    grid = round((len(w["positional_embedding"]) - 1) ** 0.5)
    state = {
        "embeddings.class_embedding": w["class_embedding"],
        "embeddings.patch_embedding.weight": w["conv1.weight"],
        "embeddings.position_embedding.weight": w["positional_embedding"],
    }
    for kind in ("weight", "bias"):
        state[f"pre_layrnorm.{kind}"] = w[f"ln_pre.{kind}"]
        state[f"post_layernorm.{kind}"] = w[f"ln_post.{kind}"]
    layers = sum(name.endswith("in_proj_weight") for name in w)
    names = (("self_attn.out_proj", "attn.out_proj"), ("layer_norm1", "ln_1"),
             ("layer_norm2", "ln_2"), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"))  # fmt: skip
    for i in range(layers):
        source_prefix, target_prefix = f"transformer.resblocks.{i}.", f"encoder.layers.{i}."
        for kind in ("weight", "bias"):
            projections = np.split(w[f"{source_prefix}attn.in_proj_{kind}"], 3)
            for name, projection in zip("qkv", projections, strict=True):
                state[f"{target_prefix}self_attn.{name}_proj.{kind}"] = projection
            state |= {
                f"{target_prefix}{a}.{kind}": w[f"{source_prefix}{b}.{kind}"] for a, b in names
            }
    module = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=width, intermediate_size=4 * width, projection_dim=w["proj"].shape[1],
            num_hidden_layers=layers, num_attention_heads=heads or width // 64,
            image_size=grid * patch, patch_size=patch, hidden_act="quick_gelu",
        )
    )  # fmt: skip
    state = {f"vision_model.{name}": tensor for name, tensor in state.items()}
    return _loaded(module, state | {"visual_projection.weight": w["proj"].T})


def vit(tensors: Tensors, size: tuple[int, int], heads: int | None = None) -> torch.nn.Module:
    """transformers' ViT with the tensors of a DINO checkpoint, for pictures of one size.

    It would resize positions differently, so it is given those that bvjax makes for this size.
    """
    from transformers import ViTConfig, ViTModel

    width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    layers = sum(name.endswith("attn.qkv.weight") for name in tensors)
    positions = dino.positions(tensors["pos_embed"], *size, patch)
    renamed = {
        "embeddings.cls_token": tensors["cls_token"],
        "embeddings.position_embeddings": np.asarray(positions),
    }
    names = (("attention.o_proj", "attn.proj"), ("layernorm_before", "norm1"),
             ("layernorm_after", "norm2"), ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2"))  # fmt: skip
    for kind in ("weight", "bias"):
        renamed[f"embeddings.patch_embeddings.projection.{kind}"] = tensors[
            f"patch_embed.proj.{kind}"
        ]
        renamed[f"layernorm.{kind}"] = tensors[f"norm.{kind}"]
        for i in range(layers):
            three = np.split(tensors[f"blocks.{i}.attn.qkv.{kind}"], 3)
            for name, part in zip("qkv", three, strict=True):
                renamed[f"layers.{i}.attention.{name}_proj.{kind}"] = part
            for a, b in names:
                renamed[f"layers.{i}.{a}.{kind}"] = tensors[f"blocks.{i}.{b}.{kind}"]
    config = ViTConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads or width // 64,
        layer_norm_eps=1e-6,
        image_size=size,
        patch_size=patch,
        hidden_act="gelu",
    )
    return _loaded(ViTModel(config, add_pooling_layer=False), renamed)


def musiq(tensors: Tensors, checkouts: pathlib.Path) -> torch.nn.Module:
    """The class of github.com/chaofengc/IQA-PyTorch."""
    _packages(checkouts / "IQA-PyTorch", "pyiqa", "pyiqa.archs", "pyiqa.data", "pyiqa.utils")
    torchvision()
    module = importlib.import_module("pyiqa.archs.musiq_arch").MUSIQ(pretrained=False, num_class=1)
    return _loaded(module, tensors)


def amt(tensors: Tensors, checkouts: pathlib.Path) -> torch.nn.Module:
    """The class that github.com/alibaba-damo-academy/Inferix has of AMT-S."""
    inside = "vbench.third_party.amt."
    packages = ("vbench", "vbench.third_party", *(inside + x for x in ("networks", "utils")))
    _packages(checkouts / "Inferix/LV-Bench", *packages)
    return _loaded(importlib.import_module(inside + "networks.AMT-S").Model(), tensors)


def raft() -> torch.nn.Module:
    """torchvision's RAFT with random weights of its own; tests hold it equal to ours."""
    torchvision()
    from torchvision.models.optical_flow import raft_large

    return raft_large(weights=None).eval()


def _packages(folder: pathlib.Path, *names: str) -> None:
    """Packages without what their __init__ would import."""
    for name in names:
        package = types.ModuleType(name)
        package.__path__ = [str(folder / name.replace(".", "/"))]
        sys.modules.setdefault(name, package)


def _loaded(module: torch.nn.Module, tensors: Tensors) -> torch.nn.Module:
    tensors = {k: torch.from_numpy(np.array(v)) for k, v in tensors.items()}
    module.load_state_dict(tensors, strict=True)
    return module.requires_grad_(False).eval()


@functools.lru_cache(maxsize=1)
def program(name: str, batch: int, checkouts: str) -> Callable[[], torch.Tensor]:
    """A call of a network; LookupError where its checkout is not there."""
    network = work.NETWORKS[name]
    checkout_folder = pathlib.Path(checkouts) / (network.checkout or "")
    if network.checkout and not (checkouts and checkout_folder.is_dir()):
        raise LookupError(f"no {network.checkout} (--reference)")
    inputs = [torch.from_numpy(x).movedim(-1, 1).contiguous() for x in network.inputs(batch)]
    if name == "raft":
        net = raft()
        first, second = (x / 127.5 - 1 for x in inputs)
        return lambda: net(first, second, num_flow_updates=20)[-1].movedim(1, -1)
    tensors = work.tensors(network)
    if name == "amt":
        net, middle = amt(tensors, pathlib.Path(checkouts)), torch.full((batch, 1, 1, 1), 0.5)
        return lambda: net(*inputs, middle, scale_factor=1.0, eval=True)["imgt_pred"].movedim(1, -1)
    if name == "musiq":
        net = musiq(tensors, pathlib.Path(checkouts))
        return lambda: net(*inputs)
    if name == "dino":
        net = vit(tensors, inputs[0].shape[2:])
        return lambda: net(*inputs).last_hidden_state[:, 0]
    net = clip(tensors)
    return lambda: net(*inputs).image_embeds


@torch.inference_mode()
def answer(request: dict) -> float | list[float] | str:
    """Behaves as `metric_networks.answer`; returns a sentence for a network that is missing."""
    if "version" in request:
        return f"torch {torch.__version__}"
    try:
        run = program(request["network"], request["batch"], request["checkouts"])
    except (LookupError, ImportError) as error:
        return str(error)
    return work.sample(run().numpy()) if "sample" in request else seconds_per_call(run)


if __name__ == "__main__":
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    serve(answer)

"""Makes dino.npz: `python -m tests.golden.make_dino CHECKOUT` (in .venv-torch).

CHECKOUT is a copy of github.com/facebookresearch/dino, whose vision_transformer.py is run.
"""

from __future__ import annotations

import functools
import importlib
import sys
import types

import numpy as np
import torch

from tests.golden import dino_cases as cases


def network(checkout: str, heads: int, **sizes: int) -> torch.nn.Module:
    """The published class with our random tensors, loaded strictly."""
    if checkout not in sys.path:
        sys.path.insert(0, checkout)
        # Of its own helpers the module only wants an initialisation, which is overwritten here.
        sys.modules["utils"] = types.SimpleNamespace(trunc_normal_=torch.nn.init.trunc_normal_)
    module = importlib.import_module("vision_transformer")
    net = module.VisionTransformer(
        img_size=[sizes["patch"] * sizes["grid"]],
        patch_size=sizes["patch"],
        embed_dim=sizes["width"],
        depth=sizes["layers"],
        num_heads=heads,
        qkv_bias=True,
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
    )
    tensors = {k: torch.from_numpy(v) for k, v in cases.tensors(**sizes).items()}
    net.load_state_dict(tensors)
    return net.eval()


def main(checkout: str) -> None:
    torch.set_grad_enabled(False)
    net = network(checkout, cases.HEADS, **cases.SIZES)
    found = {}
    for size in cases.PICTURES:
        x = torch.from_numpy(cases.picture(size)).permute(0, 3, 1, 2)
        found[cases.name(size)] = net(x).numpy()
    published = network(checkout, 1, **cases.POSITIONS)
    height, width = cases.FRAME
    patches = (height // 16) * (width // 16)
    tokens = torch.zeros(1, 1 + patches, cases.POSITIONS["width"])
    found["positions"] = published.interpolate_pos_encoding(tokens, height, width).numpy()
    np.savez_compressed(cases.FILE, **found)


if __name__ == "__main__":
    main(sys.argv[1])

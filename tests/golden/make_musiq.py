"""Makes metric_musiq.npz with the PyTorch MUSIQ that the published evaluator uses, on a CPU:

    python -m tests.golden.make_musiq PYIQA [FILE]

PYIQA is a checkout of IQA-PyTorch (0.1.16).  It was run with torch 2.13.0, torchvision 0.28.0 and
NumPy 2.4.6.  The preprocessing is VBench's `longer`: torchvision's Resize of a floating-point
tensor, bilinear without antialiasing, to int(512 / longer * side), then / 255.
"""

from __future__ import annotations

import pathlib
import sys
import types

import numpy as np
import torch

from bvjax.files import npz_bytes, write_atomic
from bvjax.lvbench.nets import musiq
from tests.golden import metric_recipe, musiq_cases


def published(checkout: pathlib.Path) -> torch.nn.Module:
    """Their network with the recipe's weights, loaded strictly."""
    for name in ("pyiqa", "pyiqa.archs", "pyiqa.data", "pyiqa.utils"):  # their __init__ want it all
        package = types.ModuleType(name)
        package.__path__ = [str(checkout / name.replace(".", "/"))]
        sys.modules[name] = package
    from pyiqa.archs.musiq_arch import MUSIQ

    net = MUSIQ(pretrained=False, num_class=1)
    weights = metric_recipe.params(musiq_cases.NET, musiq.shapes())
    net.load_state_dict({name: torch.from_numpy(x) for name, x in weights.items()}, strict=True)
    return net.eval()


def preprocessed(frame: np.ndarray) -> torch.Tensor:
    """VBench's `longer` of one frame."""
    from torchvision import transforms

    picture = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
    height, width = picture.shape[-2:]
    if max(height, width) > 512:
        ratio = 512.0 / max(height, width)
        size = (int(ratio * height), int(ratio * width))
        picture = transforms.Resize(size=size, antialias=False)(picture)
    return picture / 255.0


@torch.no_grad()
def main(checkout: str, file: str = str(musiq_cases.FILE)) -> None:
    """Writes the scores of all frames."""
    library = torch.library.Library("torchvision", "DEF")  # operators its wheel wants; unused
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    net = published(pathlib.Path(checkout))
    frames = [musiq_cases.frame(*size) for size in musiq_cases.SIZES]
    scores = np.array([float(net(preprocessed(frame))) for frame in frames])
    print(scores)
    write_atomic(pathlib.Path(file), npz_bytes(scores=scores))


if __name__ == "__main__":
    main(*sys.argv[1:])

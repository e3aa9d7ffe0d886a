"""Files of small decoders under their published names, with drawn values."""

import pathlib

import numpy as np
from safetensors.numpy import save_file


def tensors(widths=(6, 4, 3, 2), z=16, grow=(1, 2, 2), patch=1, seed=0):
    """The tensors `decoder.N.*` of a decoder with these channels; kernels as PyTorch lays them out."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    found = {"decoder.1.weight": draw(widths[0], z, 3, 3), "decoder.1.bias": draw(widths[0])}
    for stage, (width, following) in enumerate(zip(widths, widths[1:], strict=False)):
        start = 3 + 6 * stage
        for block in range(start, start + 3):
            for part, inputs in ((0, 2 * width), (2, width), (4, width)):
                name = f"decoder.{block}.conv.{part}"
                found[f"{name}.weight"] = draw(width, inputs, 3, 3)
                found[f"{name}.bias"] = draw(width)
        found[f"decoder.{start + 4}.conv.weight"] = draw(width * grow[stage], width, 1, 1)
        found[f"decoder.{start + 5}.weight"] = draw(following, width, 3, 3)
    found["decoder.22.weight"] = draw(3 * patch**2, widths[3], 3, 3)
    found["decoder.22.bias"] = 0.5 + draw(3 * patch**2)
    return found


def save(path: pathlib.Path, found) -> pathlib.Path:
    save_file(found, path)
    return path

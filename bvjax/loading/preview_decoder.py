"""Weights of a small decoder for previews (`nets.tiny_decoder`), read from a published file."""

from __future__ import annotations

import math
import pathlib

import numpy as np

from bvjax.config import VAEConfig
from bvjax.errors import UserError
from bvjax.finite import is_finite
from bvjax.nets.tiny_decoder import BLOCKS, FIRST, GROW, LAST, PROJECT
from bvjax.plain_text import listed
from bvjax.tensor_files import TensorFile

Shape = tuple[int, ...]


def load_preview_decoder(path: str | pathlib.Path, config: VAEConfig) -> dict[str, np.ndarray]:
    """The tensors `decoder.N.*` in float32, kernels in JAX's layout [height, width, in, out].

    Args:
        path: safetensors of the kind of taew2_1; tensors of its encoder are passed over.
        config: of the VAE whose latents it is to decode.

    Raises:
        UserError: the file is damaged, not such a decoder, not finite, or one of other latents.
    """
    file = TensorFile(pathlib.Path(path))
    found = {
        name: info.shape for name, info in file.infos.items() if not name.startswith("encoder.")
    }
    wanted = _shapes(found, file.path)
    if lacks := sorted(wanted.keys() - found.keys()):
        raise UserError(f"{path} is no decoder for previews: it lacks {listed(lacks)}")
    if strange := sorted(found.keys() - wanted.keys()):
        raise UserError(f"{path} is no decoder for previews: it has {listed(strange)}")
    for name, shape in wanted.items():
        if found[name] != shape:
            raise UserError(
                f"{path}: {name} is {found[name]}, and has to be {shape} beside the others"
            )
    _check_latents(found, config, file.path)
    tensors = {name: file.read(name).astype(np.float32) for name in wanted}
    for name, array in tensors.items():
        if not is_finite(array):
            raise UserError(f"{path}: {name} has values that are not finite")
    return {
        name: np.ascontiguousarray(array.transpose(2, 3, 1, 0)) if array.ndim == 4 else array
        for name, array in tensors.items()
    }


def _shapes(found: dict[str, Shape], path: pathlib.Path) -> dict[str, Shape]:
    """The tensors of a decoder with the channels that some of those in a file say."""
    heads = [f"decoder.{number}.weight" for number in (FIRST, *PROJECT, LAST)]
    heads += [f"decoder.{number}.conv.weight" for number in GROW]
    if bad := [name for name in heads if len(found.get(name, ())) != 4 or 0 in found[name]]:
        raise UserError(f"{path} is no decoder for previews: it has no kernel {listed(bad)}")
    first = found[heads[0]]
    widths = [first[0], *(found[name][0] for name in heads[1:4])]
    shapes: dict[str, Shape] = {
        f"decoder.{FIRST}.weight": (widths[0], first[1], 3, 3),
        f"decoder.{FIRST}.bias": (widths[0],),
    }
    for stage, width in enumerate(widths[:3]):
        for number in BLOCKS[stage]:
            for part in (0, 2, 4):
                inputs = 2 * width if part == 0 else width
                shapes[f"decoder.{number}.conv.{part}.weight"] = (width, inputs, 3, 3)
                shapes[f"decoder.{number}.conv.{part}.bias"] = (width,)
        grow = f"decoder.{GROW[stage]}.conv.weight"
        shapes[grow] = (width * (2 if found[grow][0] >= 2 * width else 1), width, 1, 1)
        shapes[f"decoder.{PROJECT[stage]}.weight"] = (widths[stage + 1], width, 3, 3)
    patch = max(1, math.isqrt(found[heads[4]][0] // 3))
    shapes[f"decoder.{LAST}.weight"] = (3 * patch**2, widths[3], 3, 3)
    shapes[f"decoder.{LAST}.bias"] = (3 * patch**2,)
    return shapes


def _check_latents(found: dict[str, Shape], config: VAEConfig, path: pathlib.Path) -> None:
    """Raises `UserError` unless a decoder's latents have the channels and the size of those of a VAE."""
    patch = math.isqrt(found[f"decoder.{LAST}.weight"][0] // 3)
    grown = [found[f"decoder.{n}.conv.weight"] for n in GROW]
    of_file = {
        "channels": found[f"decoder.{FIRST}.weight"][1],
        "pixels a side": 8 * patch,
        "frames": math.prod(shape[0] // shape[1] for shape in grown),
    }
    of_vae = {
        "channels": config.z_dim,
        "pixels a side": config.spatial_factor,
        "frames": config.temporal_factor,
    }
    for what, count in of_file.items():
        if count != of_vae[what]:
            raise UserError(
                f"{path} decodes latents of {count} {what}; those of these weights have {of_vae[what]}"
            )

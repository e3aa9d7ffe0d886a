"""A chunk step in PyTorch: denoise from the context, then the clean pass (see `torch_wan`).

The context comes ready: PyTorch neither retrieves, ropes and packs it nor scores, sorts and writes
the rows of the new entry, which bvjax does within its chunk step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bvjax import weights
from bvjax.config import ModelConfig
from bvjax.conversion import formats
from experiments.benchmarks.chunk_work import ChunkWork, ContextRows
from experiments.benchmarks.torch_wan import Cache, ChunkDiT


def state_dict(
    model: ModelConfig, part: str, format_name: str, params: Any
) -> dict[str, torch.Tensor]:
    """Our parameters of a part under the names of another format, float32."""
    flat = weights.flatten(params)
    arrays = {
        name: np.asarray(flat[leaf] if layer is None else flat[leaf][layer], np.float32)
        for name, (leaf, layer) in weights.disk_names(flat).items()
    }
    specs = formats.specs(model, part, format_name)
    return {s.external_name: torch.from_numpy(s.to_external(arrays[s.name]).copy()) for s in specs}


def network(model: ModelConfig, params: Any, device: str, dtype: torch.dtype) -> ChunkDiT:
    """The DiT with our parameters."""
    with torch.device("meta"):
        net = ChunkDiT(model)
    net.load_state_dict(state_dict(model, "dit", "wan", params), strict=True, assign=True)
    return net.cast(device, dtype).requires_grad_(False).eval()


class ChunkStep:
    """Call it for (latents [l, h, w, z], keys and values of each layer), as often as needed."""

    def __init__(self, net: ChunkDiT, work: ChunkWork):
        self.net, self.work = net, work
        weight = net.patch_embedding.weight
        self._device, self._dtype = weight.device, weight.dtype
        self._noise = self._put(work.noise, torch.float32)
        self._text, self._null = self._put(work.text)[None], self._put(work.null_text)[None]
        self._rope = [self._rotation(work.angles), self._rotation(work.clean_angles)]
        self._places = self._put(work.places)
        self._fresh = [self._put(x, torch.float32) for x in work.fresh]
        self._cache = self._buffers(work.context)
        null = work.null_context
        self._null_cache = self._cache if null is None else self._buffers(null)

    @torch.inference_mode()
    def __call__(self):
        work, x = self.work, self._noise
        for i, label in enumerate(work.labels.tolist()):
            sigma, following = work.levels[i : i + 2].tolist()
            v = self._pass(x, label, self._text, self._cache)
            if work.model.guidance.guided:
                null = self._pass(x, label, self._null, self._null_cache)
                v = null + work.scale * (v - null)
            if self._fresh:
                clean = x - sigma * v
                x = (1 - following) * clean + following * self._fresh[i]
            else:
                x = x + (following - sigma) * v
        cache = self._cache if work.model.build.context == "with" else None
        return x, self._pass(x, work.model.build.label, self._text, cache, clean=True)

    def _pass(self, x, sigma, text, cache, clean=False):
        rope = self._rope[int(clean)]
        return self.net(x, sigma, text, rope, self._places, cache, return_kv=clean)

    def _put(self, x: np.ndarray, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.tensor(x, device=self._device, dtype=dtype or self._dtype)

    def _rotation(self, angles: np.ndarray):
        rotation = self._put(angles, torch.float32)
        return rotation.cos(), rotation.sin()

    def _buffers(self, rows: ContextRows | None) -> Cache | None:
        """Returns for each layer room for the chunk's own rows, then the context."""
        if rows is None:
            return None
        count, buffers = len(self.work.angles), []
        for i, block in enumerate(self.net.blocks):
            layer = min(i, len(rows.lengths) - 1)
            length = int(rows.lengths[layer])
            keys, values = (self._put(x[layer, :length]) for x in (rows.keys, rows.values))
            if self.net.config.similarity_keys:
                similarity = self._put(rows.similarity[layer, :length])
                key = self.net.config.head_dim**0.5 * block.self_attn.similarity_key
                keys = keys + similarity[:, None, None] * key
            pad = torch.zeros((count, *keys.shape[1:]), dtype=self._dtype, device=self._device)
            joined = (
                torch.cat([pad, x]).transpose(0, 1)[None].contiguous() for x in (keys, values)
            )
            buffers.append(tuple(joined))
        return buffers

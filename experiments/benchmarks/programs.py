"""The programs of `bvjax.generate`, compiled before they run so that both can be timed."""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np

from bvjax.config import ModelConfig
from bvjax.generate import steps
from bvjax.nets import text, vae


class Programs:
    """`text`, `look_back`, `denoise`, `commit`, `decode` and those of the first frame or chunk.

    Each is the very function that `generate` runs; `.seconds` tells how long each took to compile.
    """

    def __init__(self, model: ModelConfig, params: dict[str, Any], given: steps.ChunkInput):
        self.model, self.seconds = model, {}
        dit, chunk = params["dit"], model.chunk
        state = jax.eval_shape(lambda: steps.init_state(model))
        guided = dict(guided=True)
        self.look_back = self._build(
            "retrieve", lambda s, g: steps._look_back(model, s, g, **guided)[1:3], state, given
        )
        denoise = lambda p, s, g: steps.denoise(p, model, s, g)
        self.denoise = self._build("denoise", denoise, dit, state, given)
        latents = jax.eval_shape(denoise, dit, state, given)

        def commit(p, s, g, x):
            return steps.commit(p, model, s, g, x)[0]

        once = dict(donate_argnums=1)
        self.commit = self._build("write memory", commit, dit, state, given, latents, **once)
        self.anchor = self.commit_anchor = None
        if chunk.first == "separate":
            anchor = lambda p, g: steps.anchor_step(p, model, g)
            self.anchor = self._build("first frame", anchor, dit, given)
            guidance = jax.eval_shape(anchor, dit, given)
            if model.memory.anchor:
                self.commit_anchor = self._build(
                    "write first frame", commit, dit, state, given, guidance, **once
                )
        if "vae" in params:
            piece = latents if self.anchor is None else guidance
            self._build_decoder(params["vae"], piece, latents)
        if "text" in params:
            ids = np.ones((1, model.text.max_length), np.int32)
            self.text = self._build("text", self._encode, params["text"], ids, ids > 0)

    def _build_decoder(self, params, first_piece, piece):
        model = self.model
        state = vae.init_decode_state(model.vae, 1, model.chunk.height, model.chunk.width)

        def decoder(first):
            def run(p, s, x):
                s, frames = vae.decode_pictures(p, model.vae, s, x[None], first=first)
                return s, frames[0]

            return run

        self.decode_first = self._build("decode first", decoder(True), params, state, first_piece)
        state, _ = jax.eval_shape(decoder(True), params, state, first_piece)
        self.decode = self._build("decode", decoder(False), params, state, piece)

    def _encode(self, params, ids, mask):
        config = self.model.text
        params = jax.tree.map(lambda leaf: leaf.astype(config.dtype), params)
        return text.UMT5Encoder(config).apply({"params": params}, ids, mask)

    def _build(self, name, function, *args, **options):
        start = time.perf_counter()
        built = jax.jit(function, **options).lower(*args).compile()
        self.seconds[name] = time.perf_counter() - start
        return built

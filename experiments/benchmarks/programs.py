"""The programs of a chunk, compiled before they run so that both can be timed."""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np

from bvjax.config import ModelConfig
from bvjax.denoiser.context import prepare_context
from bvjax.denoiser.denoise import denoise_anchor, denoise_chunk
from bvjax.denoiser.encode import write_chunk
from bvjax.denoiser.types import ChunkInput, init_state
from bvjax.nets import text, vae


class Programs:
    """`text`, `prepare_context`, `denoise`, `write`, `decode` and those of the first frame or chunk.

    Each is the very function that `generate` runs; `.seconds` tells how long each took to compile.
    """

    def __init__(self, model: ModelConfig, params: dict[str, Any], inputs: ChunkInput):
        self.model, self.seconds = model, {}
        dit, chunk = params["dit"], model.chunk
        state = jax.eval_shape(lambda: init_state(model))

        def prepare(state, inputs):
            chunk_context = prepare_context(model, state, inputs, guided=True)
            return chunk_context.context, chunk_context.null_context

        self.prepare_context = self._build("retrieve", prepare, state, inputs)
        denoise = lambda params, state, inputs: denoise_chunk(params, model, state, inputs)
        self.denoise = self._build("denoise", denoise, dit, state, inputs)
        latents = jax.eval_shape(denoise, dit, state, inputs)

        def write(params, state, inputs, latents):
            return write_chunk(params, model, state, inputs, latents)[0]

        donated = dict(donate_argnums=1)
        self.write = self._build("write memory", write, dit, state, inputs, latents, **donated)
        self.anchor = self.write_anchor = None
        if chunk.first == "separate":
            anchor = lambda params, inputs: denoise_anchor(params, model, inputs)
            self.anchor = self._build("first frame", anchor, dit, inputs)
            anchor_latent = jax.eval_shape(anchor, dit, inputs)
            if model.memory.anchor:
                self.write_anchor = self._build(
                    "write first frame", write, dit, state, inputs, anchor_latent, **donated
                )
        if "vae" in params:
            piece = latents if self.anchor is None else anchor_latent
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

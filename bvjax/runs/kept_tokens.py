"""Which tokens of a finished chunk the memory kept, worked out again from the run folder."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from jaxtyping import Bool

from bvjax.denoiser.types import MemoryState
from bvjax.errors import UserError
from bvjax.generate import steps
from bvjax.generate.prompt_change import told
from bvjax.loading.bundle import Bundle
from bvjax.memory.bank import init_bank
from bvjax.memory.storage import storage_dtype
from bvjax.runs.captions import run_conditions
from bvjax.runs.run_dir import RunDir


def kept_tokens(run: RunDir, bundle: Bundle, number: int) -> Bool[np.ndarray, "y l h w"]:
    """Returns the keep set of chunk `number` (Algorithm 2) for each layer over its latent frames and token rows.

    The clean pass is made once more, with what the chunk was told, its seed and the strengths of its LoRAs, which is
    exact where it does not see the bank.

    Raises `UserError` for a number that is not a finished chunk, and for build.context="with", where it does.
    """
    settings, grid = run.settings, run.grid
    model, chunk_id = settings.model, grid.id_of(number)
    if model.build.context != "none":
        raise UserError(
            f"build.context is {model.build.context!r}: what was kept of a chunk depends on the bank then, "
            "which a run folder does not have"
        )
    stored = run.load_latents([chunk_id], tidy=False) if 1 <= number <= len(run.captions) else {}
    if chunk_id not in stored:
        raise UserError(
            f"chunk {number} of {run.path} is not finished; its chunks are 1 to {len(run.captions)}"
        )
    # Only what is reported depends on these.
    model = dataclasses.replace(
        model,
        retrieval=dataclasses.replace(model.retrieval, kind="semantic"),
        guidance=dataclasses.replace(model.guidance, bank="one"),
    )
    conditions, _ = run_conditions(run, bundle, run.captions)
    conditions = told(conditions, model, [grid.id_of(number) for number in settings.cuts])
    key = jax.random.key(settings.seed_of(chunk_id))
    inputs = steps.chunk_input(conditions, key, None, grid.row_of(chunk_id), chunk_id)
    state = MemoryState(bank=init_bank(model, 1, storage_dtype(model)), null_bank=None)
    latents = stored[chunk_id][-grid.latents_per_chunk :]
    encoded, _ = steps.encode_program(
        bundle.dit(settings.strengths_of(chunk_id)), model, state, inputs, latents, bundle.layout
    )
    if encoded is None:
        raise UserError("no chunk of this run looks back: nothing was kept")
    entry = encoded.entry
    positions, lengths = np.asarray(entry.positions)[:, 0], np.asarray(entry.lengths)[:, 0]
    layers, patch, (height, width) = len(lengths), model.dit.patch, grid.latent_size
    kept = np.zeros(
        (layers, grid.latents_per_chunk // patch[0], height // patch[1], width // patch[2]), bool
    )
    for layer, count in enumerate(lengths):
        kept[layer][tuple(positions[layer, :count].T)] = True
    return kept

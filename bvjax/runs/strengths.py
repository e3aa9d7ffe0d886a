"""Strengths of LoRAs in the settings of a run: those it begins with, and others from a chunk on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bvjax.chunking import ChunkGrid
from bvjax.errors import UserError
from bvjax.loading.bundle import Bundle
from bvjax.policies import policy_of
from bvjax.runs.run_settings import Settings, weights_place

Strengths = float | Sequence[float]  # one for each LoRA


def first_strengths(
    settings: Settings, bundle: Bundle, changes: Mapping[int, Strengths], grid: ChunkGrid
) -> Settings:
    """Settings of a new run with the LoRAs of `bundle`, at its strengths and, from chunks on, at others.

    Args:
        changes: strengths by the number of the chunk from which on they are.

    Raises:
        UserError: there are no LoRAs, no such chunk, or strengths that do not fit.
    """
    loras = bundle.loras
    if not loras:
        if changes:
            raise UserError("`lora_at` is given, but there are no LoRAs; give them with `lora`")
        return settings
    settings = switched(settings, bundle, 0, loras.strengths, "`lora`")
    for number in sorted(changes):
        if not 1 <= number <= grid.num_chunks:
            raise UserError(f"`lora_at` is of chunk {number}; there are 1 to {grid.num_chunks}")
        from_id = 0 if number == 1 else grid.id_of(number)
        where = f"`lora_at` of chunk {number}"
        settings = switched(settings, bundle, from_id, changes[number], where)
    return settings


def switched(
    settings: Settings,
    bundle: Bundle,
    from_id: int,
    given: Strengths,
    where: str = "`lora_strengths`",
) -> Settings:
    """Settings with other strengths from chunk id `from_id` on.

    LoRAs of `bundle` behind those of the settings come to them; they are off before that chunk.

    Raises `UserError` for strengths that do not fit, which begins with `where`, and for those that change where chunks
    are not made one after the other.
    """
    try:
        numbers: list[float] = np.asarray(given, np.float64).reshape(-1).tolist()
    except (TypeError, ValueError):
        raise UserError(f"{where} is {given!r}; it must be a number for each LoRA") from None
    strengths = bundle.loras.check(numbers, where)
    own = len(settings.lora_files)
    files = tuple(weights_place(lora.path) for lora in bundle.loras.files[own:])
    settings = settings.with_loras(files, bundle.loras.sha256[own:])
    settings = settings.with_strengths(from_id, strengths)
    policy = settings.model.policy.name
    if len(settings.lora_strengths) > 1 and policy_of(policy).windows:
        raise UserError(
            f"policy {policy} makes several chunks at once, so that the strengths of LoRAs are the same for all; "
            "give them with `lora` alone"
        )
    return settings

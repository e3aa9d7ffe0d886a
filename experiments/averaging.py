"""The average of a part of two weights folders (Wortsman et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import logging

from bvjax.errors import UserError
from bvjax.generate.checks import check_model
from bvjax.overrides import apply_overrides
from bvjax.weights import load_made, load_weights, save_weights


def average(
    before: str | Path,
    after: str | Path,
    share: float,
    out: str | Path,
    part: str = "dit",
    dtype: str = "float16",
    overrides: Sequence[str] = (),
) -> None:
    """Adds the part (1 - share) * before + share * after to a weights folder.

    Raises:
        UserError: weights are missing or damaged, the two have another configuration of the part, or
            an override is not legal.
    """
    old_model, old = load_weights(before, (part,))
    model, new = load_weights(after, (part,))
    if getattr(old_model, part) != getattr(model, part):
        raise UserError(f"the {part} of {before} and of {after} are not configured alike")
    model = apply_overrides(model, tuple(overrides))
    check_model(model)

    def mean(a, b):
        return ((1 - share) * a + share * b).astype(np.float32)

    meta = load_made(after, part) | {
        "averaged": {"before": str(before), "after": str(after), "share": share}
    }
    params = {part: jax.tree.map(mean, old[part], new[part])}
    save_weights(out, model, params, meta=meta, dtype=dtype)
    logging.info("wrote the %s into %s", part, out)

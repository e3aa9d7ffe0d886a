"""Mixture of Contexts (MoC, arXiv 2508.21058), read as a policy: of all earlier chunks each query looks at a few.

In every layer and pass, and head by head, the queries of a latent frame attend to their own chunk and to the
`policy.top` entries whose keys are on average most like the mean of these queries (`retrieval.route`).  This is a
reading: no code was released; there queries are routed one by one and captions are in the sequence, here text has
cross-attention of its own and the anchor is an entry like any other.
"""

from __future__ import annotations

import dataclasses

from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.policies import full

TOP = 3


def configure(model: ModelConfig) -> ModelConfig:
    """Full history, routed."""
    top = model.policy.top or TOP
    model = full.configure(model)
    return dataclasses.replace(
        model,
        retrieval=dataclasses.replace(model.retrieval, route=top),
        policy=dataclasses.replace(model.policy, top=top),
    )


def check(model: ModelConfig, num_chunks: int) -> None:
    """Raises `UserError` as `full.check`, and for a number of entries that is said twice."""
    if model.policy.top != model.retrieval.route:
        raise UserError(
            f"policy.top is {model.policy.top} and retrieval.route {model.retrieval.route}; with policy moc give "
            "policy.top alone"
        )
    full.check(model, num_chunks)

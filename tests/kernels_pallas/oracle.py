"""Plain softmax attention and its gradient in NumPy and float64."""

from __future__ import annotations

import numpy as np


def attention(q, k, v, seen, scale):
    """Out [R, N, A, K] and log-sum-exp [R, N, A] of q [R, N, A, K], k, v [R, S, A, K], seen [R, S]."""
    weights, lse = _weights(q, k, seen, scale)
    return np.einsum("rans,rsak->rnak", weights, _64(v)), lse.swapaxes(1, 2)


def gradients(q, k, v, seen, scale, cotangent):
    """Of sum(out * cotangent) with respect to q, k and v."""
    q, k, v, cotangent = map(_64, (q, k, v, cotangent))
    weights, _ = _weights(q, k, seen, scale)
    of_weights = np.einsum("rnak,rsak->rans", cotangent, v)
    mean = (weights * of_weights).sum(-1, keepdims=True)
    of_logits = weights * (of_weights - mean) * scale
    return (
        np.einsum("rans,rsak->rnak", of_logits, k),
        np.einsum("rans,rnak->rsak", of_logits, q),
        np.einsum("rans,rnak->rsak", weights, cotangent),
    )


def _64(x):
    return np.asarray(x).astype(np.float64)


def _weights(q, k, seen, scale):
    logits = np.einsum("rnak,rsak->rans", _64(q), _64(k)) * scale
    seen = np.broadcast_to(np.asarray(seen)[:, None, None, :], logits.shape)
    peak = np.where(seen, logits, -1e30).max(-1, keepdims=True)
    weights = np.exp(np.where(seen, logits - peak, -np.inf))
    total = weights.sum(-1, keepdims=True)
    lse = np.where(total > 0, peak + np.log(np.maximum(total, 1e-300)), -1e30)
    return weights / np.maximum(total, 1e-300), lse[..., 0]

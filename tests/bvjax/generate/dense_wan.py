"""An oracle for the tests: Wan2.1's DiT over one long sequence with a dense mask, in NumPy float64.

Nothing of `bvjax.nets` is used.  The sequence consists of segments (copies of chunks, clean or
noisy); which segment sees which, and where in time it sees it, are two tables.
"""

from __future__ import annotations

import numpy as np


def dense_wan(params, config, latents, sigma, text, see, time):
    """Velocity of every segment and the keys of every layer, from one forward of all tokens.

    Args:
      params: of `WanDiT`, as it names them; config: its own (patch 1 x 2 x 2, output velocity).
      latents: [s, l, h, w, z]; sigma: [s]; text: [s, t, d].
      see: bool [s, s], see[i, j]: do the queries of segment i see the keys of segment j.
      time: int [s, s], time[i, j]: latent frame at which segment j begins as i sees it.

    Returns:
      velocity [s, l, h, w, z], keys [layer, s, n, a, k] after qk-norm and before RoPE.
    """
    p = _tree(params)
    latents, text = np.asarray(latents, np.float64), np.asarray(text, np.float64)
    s, frames, h, w, z = latents.shape
    grid = np.indices((frames, h // 2, w // 2)).reshape(3, -1).T  # (t, h, w) of a segment's tokens
    n, heads = len(grid), config.num_heads
    patches = latents.reshape(s, frames, h // 2, 2, w // 2, 2, z)
    x = _dense(p["patch_embedding"], patches.transpose(0, 1, 2, 4, 6, 3, 5).reshape(s, n, -1))

    half = config.freq_dim // 2
    phase = 1000 * np.asarray(sigma, np.float64)[:, None] * 10000.0 ** (-np.arange(half) / half)
    e = _mlp(p["time_embedding"], np.concatenate([np.cos(phase), np.sin(phase)], -1), _silu)
    e0 = _dense(p["time_projection"]["1"], _silu(e)).reshape(s, 6, config.dim)
    text = _mlp(p["text_embedding"], text, _gelu)
    mask = np.repeat(np.repeat(np.asarray(see), n, 0), n, 1)  # [s * n, s * n]

    def split(y):
        return y.reshape(*y.shape[:-1], heads, -1)

    all_keys = []
    for layer in range(config.num_layers):
        b = _tree(p["blocks"], layer)
        shift1, scale1, gate1, shift2, scale2, gate2 = np.moveaxis(b["modulation"] + e0, 1, 0)
        a = b["self_attn"]
        y = _norm(x) * (1 + scale1[:, None]) + shift1[:, None]
        q, k = (split(_rms(a[f"norm_{c}"], _dense(a[c], y))) for c in "qk")
        v = split(_dense(a["v"], y)).reshape(s * n, heads, -1)
        logits = np.empty((heads, s * n, s * n))
        for i in range(s):
            at = _rope(q[i], grid, time[i][i], config.rope_theta)
            for j in range(s):
                keys = _rope(k[j], grid, time[i][j], config.rope_theta)
                block = np.einsum("nac,mac->anm", at, keys)
                logits[:, i * n : (i + 1) * n, j * n : (j + 1) * n] = block
        share = _softmax(np.where(mask, logits / np.sqrt(q.shape[-1]), -np.inf))
        y = np.einsum("anm,mac->nac", share, v).reshape(s, n, -1)
        x = x + gate1[:, None] * _dense(a["o"], y)
        all_keys.append(k)

        a = b["cross_attn"]
        y = _norm(x) * b["norm3"]["scale"] + b["norm3"]["bias"]
        q = split(_rms(a["norm_q"], _dense(a["q"], y)))
        k, v = split(_rms(a["norm_k"], _dense(a["k"], text))), split(_dense(a["v"], text))
        share = _softmax(np.einsum("snac,stac->sant", q, k) / np.sqrt(q.shape[-1]))
        x = x + _dense(a["o"], np.einsum("sant,stac->snac", share, v).reshape(s, n, -1))
        y = _norm(x) * (1 + scale2[:, None]) + shift2[:, None]
        x = x + gate2[:, None] * _mlp(b["ffn"], y, _gelu)

    shift, scale = p["head"]["modulation"][:, None] + e  # [2, s, d]
    y = _dense(p["head"]["head"], _norm(x) * (1 + scale[:, None]) + shift[:, None])
    y = y.reshape(s, frames, h // 2, w // 2, 2, 2, z).transpose(0, 1, 2, 4, 3, 5, 6)
    return y.reshape(s, frames, h, w, z), np.stack(all_keys)


def _tree(tree, index=slice(None)):
    if isinstance(tree, dict):
        return {key: _tree(value, index) for key, value in tree.items()}
    tree = np.asarray(tree, np.float64)
    return tree[index] if tree.ndim else tree


def _dense(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def _mlp(layers, x, activation):
    return _dense(layers["2"], activation(_dense(layers["0"], x)))


def _norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def _rms(layer, x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * layer["scale"]


def _silu(x):
    return x / (1 + np.exp(-x))


def _gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def _rope(x, grid, begin, theta):
    """Pairs of x [n, a, k] as complex numbers, turned by t, h and w: each axis its own spectrum."""
    half = x.shape[-1] // 2
    counts = (half - 2 * (half // 3), half // 3, half // 3)
    at = grid + [begin, 0, 0]
    angle = np.concatenate(
        [at[:, i, None] * theta ** (-np.arange(c) / c) for i, c in enumerate(counts)], -1
    )
    turned = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angle)[:, None]
    return np.stack([turned.real, turned.imag], -1).reshape(x.shape)

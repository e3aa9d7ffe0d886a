"""RoPE times of context entries, by hand."""

import jax
import jax.numpy as jnp
import pytest

from bvjax.errors import UserError
from bvjax.memory.positions import time_bases

_bases = jax.jit(
    time_bases,
    static_argnums=0,
    static_argnames=("latents", "first_latents", "num_recent", "num_retrieved", "anchor"),
)

# Entries [anchor, 2 semantic, 2 recent], 8 latents a chunk behind an anchor.
HAND = {  # (ids, target) -> {mode: (entry bases of the valid ones, own base)}
    ((0, -1, -1, -1, -1), 1): {
        "absolute": ([0], 1),
        "local": ([0], 1),
        "window": ([0], 33),
        "packed": ([0], 1),
    },
    ((0, -1, -1, -1, 1), 2): {
        "absolute": ([0, 1], 9),
        "local": ([0, 1], 1),
        "window": ([0, 25], 33),
        "packed": ([0, 1], 9),
    },
    ((0, -1, -1, 1, 2), 3): {
        "absolute": ([0, 1, 9], 17),
        "local": ([0, 1, 1], 1),
        "window": ([0, 17, 25], 33),
        "packed": ([0, 1, 9], 17),
    },
    ((0, 1, 2, 3, 4), 5): {
        "absolute": ([0, 1, 9, 17, 25], 33),
        "local": ([0, 1, 1, 1, 1], 1),
        "window": ([0, 1, 9, 17, 25], 33),
        "packed": ([0, 1, 9, 17, 25], 33),
    },
    ((0, -1, 7, 38, 39), 40): {
        "absolute": ([0, 49, 297, 305], 313),
        "local": ([0, 1, 1, 1], 1),
        "window": ([0, 9, 17, 25], 33),
        "packed": ([0, 1, 9, 17], 25),
    },
    ((0, 4, -1, 9, -1), 11): {  # holes anywhere: training may drop entries
        "absolute": ([0, 25, 65], 81),
        "local": ([0, 1, 1], 1),
        "window": ([0, 17, 25], 33),
        "packed": ([0, 1, 9], 17),
    },
    (
        (0, 3, 9, 7, 8),
        10,
    ): {  # with retrieval.offset a retrieved chunk may be later than the recent ones
        "absolute": ([0, 17, 65, 49, 57], 73),
        "local": ([0, 1, 1, 1, 1], 1),
        "window": ([0, 1, 25, 9, 17], 33),
        "packed": ([0, 1, 25, 9, 17], 33),
    },
    ((-1, -1, -1, -1, -1), 0): {
        "absolute": ([], 0),
        "local": ([], 0),
        "window": ([], 0),
        "packed": ([], 0),
    },
}


@pytest.mark.parametrize("mode", ["absolute", "local", "window", "packed"])
def test_time_bases_by_hand(mode):
    for (ids, target), want in HAND.items():
        chunk_id = jnp.array([ids], jnp.int32)
        entry, own = _bases(
            mode,
            chunk_id,
            chunk_id >= 0,
            jnp.int32(target),
            latents=8,
            first_latents=1,
            num_recent=2,
            num_retrieved=2,
            anchor=True,
        )
        at = [e for e, i in enumerate(ids) if i >= 0]
        assert ([int(entry[0, e]) for e in at], int(own[0])) == want[mode]
        assert entry.dtype == own.dtype == jnp.int32


def test_time_bases_without_a_guidance_latent():
    """chunk.first="joined": chunk 0 is L = 3 latents long, as an anchor and as any other entry."""
    chunk_id = jnp.array([[0, 5, 6]], jnp.int32)
    for anchor in (True, False):
        common = {
            "latents": 3,
            "first_latents": 3,
            "num_recent": 3 - anchor,
            "num_retrieved": 0,
            "anchor": anchor,
        }
        entry, own = time_bases("absolute", chunk_id, chunk_id >= 0, jnp.int32(7), **common)
        assert (entry[0].tolist(), own[0]) == ([0, 15, 18], 21)
        entry, own = time_bases("window", chunk_id, chunk_id >= 0, jnp.int32(7), **common)
        assert (entry[0].tolist(), own[0]) == (([0, 3, 6], 9) if anchor else ([3, 6, 9], 12))
        packed = time_bases("packed", chunk_id, chunk_id >= 0, jnp.int32(7), **common)
        assert (packed[0] == entry).all() and packed[1] == own  # the window is full


def test_unknown_mode():
    ids = jnp.zeros((1, 1), jnp.int32)
    common = {"latents": 8, "first_latents": 1, "num_recent": 0, "num_retrieved": 0, "anchor": True}
    with pytest.raises(
        UserError, match="rope.mode is 'ntk'; it can be absolute, local, window, packed"
    ):
        time_bases("ntk", ids, ids >= 0, jnp.int32(1), **common)

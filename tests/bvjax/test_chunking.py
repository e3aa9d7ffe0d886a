"""ChunkGrid: every frame and latent belongs to exactly one chunk, and illegal sizes are refused."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bvjax.chunking import ChunkGrid, chunks_for_seconds, frames_of_latents, latents_of_frames
from bvjax.config import ChunkConfig
from bvjax.errors import UserError
from bvjax.presets import MINI, PRESETS

grids = st.builds(
    lambda h, w, t, n, first: ChunkGrid(
        ChunkConfig(height=16 * h, width=16 * w, fps=8, frames=4 * t, first=first), n
    ),
    st.integers(1, 4), st.integers(1, 4), st.integers(1, 9), st.integers(1, 20),
    st.sampled_from(["separate", "joined", "overlap"]),
)  # fmt: skip


def entries(grid):
    ids = list(grid.chunk_ids)
    return ids if grid.config.first == "joined" else [0, *ids]


@settings(deadline=None, max_examples=60)
@given(grids)
def test_latents_and_frames_are_partitioned(grid):
    """Entries tile the latents and the frames without gap or overlap (the overlap head excepted)."""
    latents = [grid.latent_range(i) for i in entries(grid)]
    frames = [grid.frame_range(i) for i in entries(grid)]
    for (_, stop), (start, _) in zip(latents, latents[1:], strict=False):
        assert stop == start
    for (_, stop), (start, _) in zip(frames, frames[1:], strict=False):
        assert stop == start
    assert latents[0][0] == frames[0][0] == 0
    assert latents[-1][1] == grid.num_latents
    assert frames[-1][1] == grid.num_frames
    assert all(stop - start == grid.config.frames for start, stop in frames[1:])


@settings(deadline=None, max_examples=30)
@given(grids)
def test_positions_are_a_raster(grid):
    positions = grid.positions(grid.latents_per_chunk, start=3)
    assert positions.shape == (grid.tokens_per_chunk, 3)
    assert positions[0].tolist() == [3, 0, 0]
    order = np.lexsort(positions.T[::-1])
    assert (order == np.arange(len(positions))).all()
    assert len({tuple(p) for p in positions}) == len(positions)


@given(st.integers(1, 400))
def test_frames_and_latents_invert(latents):
    assert latents_of_frames(frames_of_latents(latents)) == latents


def test_the_papers_and_the_small_geometry():
    paper = ChunkGrid(PRESETS["wan-1.3b"].chunk, 15)
    assert (paper.num_frames, paper.num_latents, paper.tokens_per_latent) == (1441, 361, 1560)
    mini = ChunkGrid(MINI.chunk, 15)
    assert (mini.num_frames, mini.num_latents, mini.tokens_per_chunk) == (481, 121, 128)
    assert mini.seconds_per_chunk == 4.0
    self_forcing = ChunkGrid(PRESETS["self-forcing"].chunk, 7)
    assert (self_forcing.num_frames, self_forcing.num_latents) == (81, 21)
    whole_clip = ChunkGrid(ChunkConfig(frames=84, first="joined"), 1)
    assert (whole_clip.num_frames, whole_clip.latents_per_chunk) == (81, 21)
    skyreels = ChunkGrid(ChunkConfig(frames=80, first="overlap", overlap_frames=17), 18)
    assert (skyreels.num_frames, skyreels.window_latents) == (1457, 25)


@pytest.mark.parametrize(
    ("change", "chunks", "message"),
    [
        ({"width": 854}, 1, "chunk.width is 854; .*multiple of 16, the nearest is 848"),
        ({"height": 0}, 1, "chunk.height is 0; .*nearest is 16"),
        ({"frames": 81}, 1, "chunk.frames is 81; .*multiple of 4, the nearest is 80"),
        ({"first": "seperate"}, 1, "chunk.first is 'seperate'; it can be separate"),
        ({"first": "overlap", "overlap_frames": 5}, 1, "overlap_frames is 5; .*nearest is 1"),
        ({"first": "overlap", "overlap_frames": 17, "frames": 8}, 1, "must not exceed"),
        ({"fps": 0}, 1, "chunk.fps is 0"),
        ({}, 0, "number of chunks is 0"),
    ],
)
def test_illegal_sizes_name_the_nearest_legal_one(change, chunks, message):
    with pytest.raises(UserError, match=message):
        ChunkGrid(dataclasses.replace(ChunkConfig(), **change), chunks)


@settings(deadline=None, max_examples=60)
@given(grids)
def test_whole_chunks_of_a_video(grid):
    """Exactly the frames of n chunks hold n, one frame less holds n - 1."""
    frames = grid.num_frames
    assert grid.chunks_in(frames) == grid.num_chunks == grid.chunks_in(frames + 3)
    assert grid.chunks_in(frames - 1) == grid.num_chunks - 1
    assert grid.chunks_in(0) == 0


def test_a_video_must_have_one_plus_four_k_frames():
    with pytest.raises(UserError, match="80 frames .* e.g. 81"):
        latents_of_frames(80)


def test_seconds_round_up_to_whole_chunks():
    assert chunks_for_seconds(60.0, MINI.chunk) == 15
    assert chunks_for_seconds(53.0, MINI.chunk) == 14
    assert chunks_for_seconds(0.5, MINI.chunk) == 1

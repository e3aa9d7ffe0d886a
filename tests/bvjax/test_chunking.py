"""ChunkGrid: every frame and latent belongs to exactly one chunk, and illegal sizes are refused."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bvjax.chunking import ChunkGrid
from bvjax.config import ChunkConfig, VAEConfig
from bvjax.errors import UserError
from bvjax.presets import MINI, PRESETS

FIRST = ("separate", "joined", "overlap")


def grid_of(h, w, t, n, first, time=2, space=3):
    """Of a VAE that halves `time` times and `space` times."""
    vae = VAEConfig(
        temporal_downsample=(True,) * time + (False,) * (3 - time),
        spatial_downsample=(True,) * space + (False,) * (3 - space),
    )
    side = 2 * 2**space
    chunk = ChunkConfig(height=side * h, width=side * w, fps=8, frames=2**time * t, first=first)
    return ChunkGrid(chunk, n, vae=vae)


grids = st.builds(
    grid_of,
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(1, 20),
    st.sampled_from(FIRST),
    st.integers(0, 3),
    st.integers(0, 3),
)


def entries(grid):
    return [i for piece in grid.piece_ids for i in grid.entry_ids(piece, anchor=True)]


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


@pytest.mark.parametrize(
    ("first", "pieces", "numbers", "rows", "with_anchor", "without"),
    [
        ("separate", [0, 1, 2, 3], [0, 1, 2, 3], [0, 0, 1, 2], [0, 1, 2, 3], [1, 2, 3]),
        ("joined", [0, 1, 2], [1, 2, 3], [0, 1, 2], [0, 1, 2], [0, 1, 2]),
        ("overlap", [1, 2, 3], [1, 2, 3], [0, 1, 2], [0, 1, 2, 3], [1, 2, 3]),
    ],
)
def test_ids_numbers_and_rows(first, pieces, numbers, rows, with_anchor, without):
    grid = grid_of(1, 1, 3, 3, first)
    assert list(grid.piece_ids) == pieces
    assert [grid.number_of(i) for i in pieces] == numbers
    assert grid.number_of(np.array(pieces)).tolist() == numbers
    assert [grid.row_of(i) for i in pieces] == rows
    assert [grid.id_of(n) for n in (1, 2, 3)] == list(grid.chunk_ids) == pieces[-3:]
    for anchor, entries in ((True, with_anchor), (False, without)):
        assert [i for piece in pieces for i in grid.entry_ids(piece, anchor)] == entries


@given(grids)
def test_pieces_have_all_latents(grid):
    """With overlap the head of each window but the first is there twice."""
    latents = sum(grid.piece_latents(i) for i in grid.piece_ids)
    assert latents - (grid.num_chunks - 1) * grid.overlap_latents == grid.num_latents


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
    assert grid.chunks_in(frames) == grid.num_chunks
    assert grid.chunks_in(frames + grid.config.frames - 1) == grid.num_chunks
    assert grid.chunks_in(frames - 1) == grid.num_chunks - 1
    assert grid.chunks_in(0) == 0


def test_strides_are_those_of_the_vae():
    """One latent of 2 frames and 4 pixels: twice as many of each as with the published VAEs."""
    chunk = ChunkConfig(height=32, width=64, frames=16, first="overlap", overlap_frames=17)
    chunk = dataclasses.replace(chunk, frames=24)
    grid = ChunkGrid(chunk, 2, vae=grid_of(1, 1, 1, 1, "joined", time=1, space=2).vae)
    assert grid.latent_size == (8, 16) and grid.latents_per_chunk == 12
    assert grid.overlap_latents == 9 and grid.frames_of_latents(grid.num_latents) == 17 + 48
    with pytest.raises(UserError, match="chunk.frames is 15; .*multiple of 2, the nearest is 16"):
        ChunkGrid(dataclasses.replace(chunk, frames=15), 2, vae=grid.vae)
    coarse = dataclasses.replace(
        grid.vae, dim_mult=(1,) * 6, temporal_downsample=(True,) * 5, spatial_downsample=(True,) * 5
    )
    with pytest.raises(UserError, match="overlap_frames is 17; with this VAE it must be 1 \\+ a"):
        ChunkGrid(ChunkConfig(256, 256, 8, 32, "overlap", 17), 1, vae=coarse)

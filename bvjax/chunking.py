"""ChunkGrid: the one owner of frames <-> latents <-> tokens <-> chunks <-> positions, of ids and of legal sizes.

Three arrangements (`ChunkConfig.first`) of N chunks with T pixel frames, L = T/s latent frames each, where the VAE makes
one latent of s frames (`VAEConfig.temporal_factor`, 4 in all published ones):

  separate  latent 0 (frame 0, the anchor) is a one-latent chunk of its own with id 0, then N chunks of
            L latents with ids 1..N: 1 + T*N frames.
  joined    latent 0 is one of the first chunk's L latents; ids 0..N-1: s*(N*L - 1) + 1 frames.
  overlap   a window of P + L latents per chunk, P of them the last `overlap_frames` pixel frames of the
            chunk before, encoded again or (`history`) their latents; ids 1..N: overlap_frames + T*N frames.

The causal VAE turns 1 + s*k pixel frames into 1 + k latent frames; a patch is 2 x 2 latent pixels.

A video is made in *pieces*, one a chunk and one for the anchor; a piece and the entry of the bank that it
becomes have the same id.  What people call chunk 1, 2, ... is its *number*, 0 the anchor; its caption is in
*row* number - 1.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int

from bvjax.config import ChunkConfig, ModelConfig, VAEConfig
from bvjax.errors import UserError

FIRST_MODES = ("separate", "joined", "overlap")
HISTORIES = ("pixels", "latents")
OVERLAPS = (1, 17)  # the paper's (1 + T) read for every chunk, and SkyReels-V2's 17

Id = TypeVar("Id", bound=Any)  # int, or an array of them


def _nearest_multiple(value: int, step: int) -> int:
    return max(step, step * round(value / step))


@dataclasses.dataclass(frozen=True)
class ChunkGrid:
    """Sizes of `num_chunks` chunks cut as `config` says; raises `UserError` for sizes that do not fit."""

    config: ChunkConfig
    num_chunks: int
    patch: tuple[int, int, int] = (1, 2, 2)
    vae: VAEConfig = VAEConfig()  # its strides

    @classmethod
    def of(cls, model: ModelConfig, num_chunks: int = 1) -> ChunkGrid:
        """The grid of a model; raises `UserError` for sizes that do not fit it."""
        return cls(model.chunk, num_chunks, model.dit.patch, model.vae)

    def __post_init__(self):
        c = self.config
        if c.first not in FIRST_MODES:
            raise UserError(f"chunk.first is {c.first!r}; it can be {', '.join(FIRST_MODES)}")
        if c.history not in HISTORIES:
            raise UserError(f"chunk.history is {c.history!r}; it can be {', '.join(HISTORIES)}")
        for name, value, step in (
            ("height", c.height, self.vae.spatial_factor * self.patch[1]),
            ("width", c.width, self.vae.spatial_factor * self.patch[2]),
            ("frames", c.frames, self.vae.temporal_factor * self.patch[0]),
        ):
            if value <= 0 or value % step:
                raise UserError(
                    f"chunk.{name} is {value}; it must be a positive multiple of {step}, "
                    f"the nearest is {_nearest_multiple(value, step)}"
                )
        if c.fps <= 0:
            raise UserError(f"chunk.fps is {c.fps}; it must be 1 or more")
        if self.num_chunks < 1:
            raise UserError(f"the number of chunks is {self.num_chunks}; it must be 1 or more")
        if c.first == "overlap" and c.overlap_frames not in OVERLAPS:
            nearest = min(OVERLAPS, key=lambda o: abs(o - c.overlap_frames))
            raise UserError(
                f"chunk.overlap_frames is {c.overlap_frames}; it can be 1 or 17, the nearest is {nearest}"
            )
        if c.first == "overlap" and c.overlap_frames > c.frames:
            raise UserError(
                f"chunk.overlap_frames is {c.overlap_frames}; it must not exceed chunk.frames, {c.frames}"
            )
        stride = self.vae.temporal_factor
        if c.first == "overlap" and (c.overlap_frames - 1) % stride:
            raise UserError(
                f"chunk.overlap_frames is {c.overlap_frames}; with this VAE it must be 1 + a multiple of "
                f"{stride}"
            )

    # ---- sizes of one chunk -------------------------------------------------------------------
    @property
    def latents_per_chunk(self) -> int:
        """L: latent frames a chunk adds."""
        return self.config.frames // self.vae.temporal_factor

    @property
    def overlap_latents(self) -> int:
        """P: clean latent frames at the head of each denoised window (0 unless first="overlap")."""
        if self.config.first != "overlap":
            return 0
        return 1 + (self.config.overlap_frames - 1) // self.vae.temporal_factor

    @property
    def window_latents(self) -> int:
        """Latent frames that are denoised together: L, or P + L with overlap."""
        return self.latents_per_chunk + self.overlap_latents

    @property
    def latent_size(self) -> tuple[int, int]:
        """(h, w) of a latent frame."""
        return (
            self.config.height // self.vae.spatial_factor,
            self.config.width // self.vae.spatial_factor,
        )

    @property
    def tokens_per_latent(self) -> int:
        h, w = self.latent_size
        return (h // self.patch[1]) * (w // self.patch[2])

    @property
    def tokens_per_chunk(self) -> int:
        """N: tokens that a chunk adds (and that a bank entry can hold at most)."""
        return self.latents_per_chunk // self.patch[0] * self.tokens_per_latent

    @property
    def first_entry_latents(self) -> int:
        """Latent frames of the bank entry with id 0: the anchor, or the whole first chunk."""
        return self.latents_per_chunk if self.config.first == "joined" else 1

    @property
    def seconds_per_chunk(self) -> float:
        return self.config.frames / self.config.fps

    # ---- ids ----------------------------------------------------------------------------------
    @property
    def first_id(self) -> int:
        """Id of chunk 1: 0 when joined, else 1, because id 0 is the anchor."""
        return 0 if self.config.first == "joined" else 1

    @property
    def chunk_ids(self) -> range:
        """Ids of the chunks in time order."""
        return range(self.first_id, self.first_id + self.num_chunks)

    @property
    def piece_ids(self) -> range:
        """Ids of all pieces in time order: with "separate" the anchor, 0, then the chunks."""
        return range(0 if self.config.first == "separate" else self.first_id, self.chunk_ids.stop)

    def entry_ids(self, piece_id: int, anchor: bool) -> tuple[int, ...]:
        """Ids of the entries that a piece becomes, in the order in which they are written.

        An anchor is one only with `anchor` (`memory.anchor`); with overlap, chunk 1 then brings
        entry 0, its first latent, as well.
        """
        if piece_id == 0 and self.config.first == "separate":
            return (0,) * anchor
        if piece_id == 1 and self.config.first == "overlap":
            return (0,) * anchor + (1,)
        return (piece_id,)

    def number_of(self, piece_id: Id) -> Id:
        """The number by which people call a piece; ids may be arrays."""
        return piece_id + (1 - self.first_id)

    def id_of(self, number: int) -> int:
        """Id of chunk `number`."""
        return number - 1 + self.first_id

    def row_of(self, piece_id: int) -> int:
        """Row of its caption; the anchor has that of chunk 1."""
        return max(0, self.number_of(piece_id) - 1)

    def piece_latents(self, piece_id: int) -> int:
        """Latent frames of a piece: the whole window, or the anchor alone."""
        alone = piece_id == 0 and self.config.first == "separate"
        return 1 if alone else self.window_latents

    # ---- sizes of the whole video -------------------------------------------------------------
    def frames_of_latents(self, latents: int) -> int:
        """Pixel frames that decode from the first `latents` latent frames: 1 + s (n - 1)."""
        return 1 + self.vae.temporal_factor * (latents - 1)

    @property
    def num_latents(self) -> int:
        """Latent frames of the video (with overlap: of all windows without their re-encoded heads)."""
        head = {"separate": 1, "joined": 0, "overlap": self.overlap_latents}[self.config.first]
        return head + self.num_chunks * self.latents_per_chunk

    @property
    def num_frames(self) -> int:
        """Pixel frames of the video."""
        c = self.config
        if c.first == "overlap":
            return c.overlap_frames + c.frames * self.num_chunks
        return self.frames_of_latents(self.num_latents)

    def chunks_in(self, frames: int) -> int:
        """Whole chunks that a video of `frames` pixel frames holds; what is left over is no chunk."""
        head = self.num_frames - self.num_chunks * self.config.frames
        return max(0, (frames - head) // self.config.frames)

    def latent_range(self, chunk_id: int) -> tuple[int, int]:
        """[start, stop) of the latent frames that entry `chunk_id` owns in the whole video."""
        if self.config.first == "overlap":
            stop = self.overlap_latents + chunk_id * self.latents_per_chunk
            return (0, 1) if chunk_id == 0 else (stop - self.latents_per_chunk, stop)
        start = self.time_base(chunk_id)
        length = self.first_entry_latents if chunk_id == 0 else self.latents_per_chunk
        return start, start + length

    def frame_range(self, chunk_id: int) -> tuple[int, int]:
        """[start, stop) of the pixel frames that entry `chunk_id` owns in the whole video."""
        start, stop = self.latent_range(chunk_id)
        first = 0 if start == 0 else self.frames_of_latents(start)
        return first, self.frames_of_latents(stop)

    def time_base(self, chunk_id: int) -> int:
        """Absolute latent-frame index at which entry `chunk_id` starts (RoPE's absolute time)."""
        if chunk_id == 0:
            return 0
        return self.first_entry_latents + (chunk_id - 1) * self.latents_per_chunk

    # ---- positions ----------------------------------------------------------------------------
    def positions(self, latent_frames: int, start: int = 0) -> Int[np.ndarray, "N 3"]:
        """(t, h, w) of the tokens of `latent_frames` frames in raster order; t counts from `start`."""
        h, w = self.latent_size
        pt, ph, pw = self.patch
        grid = np.meshgrid(
            start + np.arange(latent_frames // pt),
            np.arange(h // ph),
            np.arange(w // pw),
            indexing="ij",
        )
        return np.stack(grid, axis=-1).reshape(-1, 3).astype(np.int32)

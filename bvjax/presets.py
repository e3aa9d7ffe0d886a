"""Named sets of numbers: `get_preset("mini")`."""

from __future__ import annotations

from bvjax.config import (
    BuildConfig,
    CFGConfig,
    ChunkConfig,
    DiTConfig,
    MemoryConfig,
    ModelConfig,
    NoiseConfig,
    RetrievalConfig,
    RopeConfig,
    SamplerConfig,
    TextConfig,
    VAEConfig,
)
from bvjax.errors import UserError

# Trained from nothing on two CPU cores; 64x64 pixels, 128 tokens a chunk.
MINI = ModelConfig(
    name="mini",
    chunk=ChunkConfig(height=64, width=64, fps=8, frames=32),
    # All spatial halvings are folds into channels, as the first is in Wan2.2: at 64 pixels every detail is
    # high frequency, and full-size convolutions need hours for what this path has from the start.
    vae=VAEConfig(
        dim=64,
        z_dim=32,
        patch=8,
        dim_mult=(1, 1, 1),
        num_res_blocks=1,
        spatial_downsample=(False, False),
        temporal_downsample=(True, True),
        latent_mean=(0.0,) * 32,
        latent_std=(1.0,) * 32,
    ),
    text=TextConfig(
        vocab_size=1024, dim=128, num_layers=4, num_heads=4, head_dim=32, ffn_dim=256, max_length=64
    ),
    dit=DiTConfig(
        dim=192,
        num_heads=6,
        num_layers=6,
        ffn_dim=768,
        freq_dim=64,
        in_channels=32,
        out_channels=32,
        output="residual",
    ),
    memory=MemoryConfig(slots=16, capacity=128),
    build=BuildConfig(n_recent=16, n_random=16),
    rope=RopeConfig(mode="window"),
    sampler=SamplerConfig(steps=20, shift=6.0),
    # Without `memory` what comes back is hardly more than hinted at, see docs/model_card.md.
    cfg=CFGConfig(scale=4.0, memory=8.0),
)

# Wan2.1-T2V-1.3B with the geometry that fits the paper's 15 captions of 4 s: T = 96 at 24 fps.
WAN_1_3B = ModelConfig(name="wan-1.3b", dit=DiTConfig(dtype="bfloat16", remat="full"))

WAN_14B = ModelConfig(
    name="wan-14b",
    dit=DiTConfig(
        dim=5120, num_heads=40, num_layers=40, ffn_dim=13824, dtype="bfloat16", remat="full"
    ),
)

# Self-Forcing checkpoints: 3-latent chunks at 16 fps, rolling cache, four steps without guidance.
SELF_FORCING = ModelConfig(
    name="self-forcing",
    chunk=ChunkConfig(fps=16, frames=12, first="joined"),
    dit=DiTConfig(dtype="bfloat16", remat="full"),
    memory=MemoryConfig(slots=8, capacity=4680, evict="oldest", tau=1.0),
    build=BuildConfig(context="with"),
    retrieval=RetrievalConfig(kind="rolling", recent=6, l=0),
    noise=NoiseConfig(base="independent", shuffle=0),
    sampler=SamplerConfig(kind="few_step", steps=4),
    cfg=CFGConfig(scale=1.0),
)

# SkyReels-V2-DF-1.3B-540P: windows of 97 frames, 17 of them the end of the window before; one caption at a
# time and no memory but those frames.
SKYREELS = ModelConfig(
    name="skyreels-1.3b",
    chunk=ChunkConfig(height=544, width=960, fps=24, frames=80, first="overlap", overlap_frames=17),
    dit=DiTConfig(fps_embedding=True, dtype="bfloat16", remat="full"),
    memory=MemoryConfig(slots=1, capacity=1, anchor=False),
    retrieval=RetrievalConfig(kind="none", recent=0, l=0),
    rope=RopeConfig(mode="local"),
    noise=NoiseConfig(base="independent", shuffle=0),
    sampler=SamplerConfig(steps=30, shift=8.0, corrector="skyreels", history_noise=20.0),
    cfg=CFGConfig(scale=6.0),
)

PRESETS = {preset.name: preset for preset in (MINI, WAN_1_3B, WAN_14B, SELF_FORCING, SKYREELS)}


def get_preset(name: str) -> ModelConfig:
    """The preset called `name`; raises `UserError` listing the legal names."""
    if name not in PRESETS:
        raise UserError(f"there is no preset {name!r}; the presets are {', '.join(PRESETS)}")
    return PRESETS[name]

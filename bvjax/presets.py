"""Named sets of numbers: `get_preset("mini")`."""

from __future__ import annotations

import dataclasses

from bvjax.config import (
    BuildConfig,
    ChunkConfig,
    DiTConfig,
    GuidanceConfig,
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
        preconditioning="linear",
    ),
    memory=MemoryConfig(slots=16, capacity=128),
    build=BuildConfig(n_recent=16, n_random=16),
    rope=RopeConfig(mode="window"),
    sampler=SamplerConfig(steps=20, shift=6.0),
    # Without `memory` what comes back is hardly more than hinted at, see docs/model_card.md.
    guidance=GuidanceConfig(scale=4.0, memory=8.0),
)

# Wan2.1-T2V-1.3B with the geometry that fits the paper's 15 captions of 4 s: T = 96 at 24 fps.
WAN_1_3B = ModelConfig(name="wan-1.3b", dit=DiTConfig(dtype="bfloat16", remat="full"))

WAN_14B = ModelConfig(
    name="wan-14b",
    dit=DiTConfig(
        dim=5120, num_heads=40, num_layers=40, ffn_dim=13824, dtype="bfloat16", remat="full"
    ),
)

# The Self-Forcing family: chunks of 3 latents at 16 fps, each clean chunk encoded with what it saw,
# a few steps with fresh noise between them, guidance distilled into the weights.  In their words:
#
#   num_frame_per_block = 3     chunk.frames=12 with first="joined" (1: frames=4, capacity 1560)
#   local_attn_size = W         the chunk itself and W/3 - 1 before it, the sink among them
#   sink_size = 0               memory.anchor=false, retrieval.num_recent = W/3 - 1
#   sink_size = 3               memory.anchor=true, retrieval.num_recent = W/3 - 2
#   slots                       W/3: what the next chunk sees, and room for the chunk being written
#   timestep_shift              sampler.shift, with warp_denoising_step
#   context_noise = t           build.label = t/1000 (0 in all of them)
#   guidance of many steps      guidance.bank="two": a cache for the negative prompt as well
#
# A sink is whole: the first chunk or nothing, which is all that released weights use.  Times are
# absolute; rope.mode="packed" keeps them below W in a video of any length.
#
# Self-Forcing looks at 21 latents and was never shown more.  With the sink of 3 that its code has
# and its weights do not use: memory.anchor=true, retrieval.num_recent=5.
SELF_FORCING = ModelConfig(
    name="self-forcing",
    chunk=ChunkConfig(fps=16, frames=12, first="joined"),
    dit=DiTConfig(dtype="bfloat16", remat="full"),
    memory=MemoryConfig(slots=7, capacity=4680, anchor=False, evict="oldest", tau=1.0),
    build=BuildConfig(context="with"),
    retrieval=RetrievalConfig(kind="rolling", num_recent=6, num_retrieved=0, dense_recent=True),
    noise=NoiseConfig(base="independent", shuffle=0),
    sampler=SamplerConfig(kind="few_step", steps=4),
    guidance=GuidanceConfig(scale=1.0),
)

# LongLive: 12 latents, the first 3 of the video among them.  Where its prompt changes it encodes the
# window anew under the new one; here entries keep the captions they were made with, as in BlockVid.
LONGLIVE = dataclasses.replace(
    SELF_FORCING,
    name="longlive",
    memory=dataclasses.replace(SELF_FORCING.memory, slots=4, anchor=True),
    retrieval=dataclasses.replace(SELF_FORCING.retrieval, num_recent=2),
)

# CausVid: its list is not warped, and its levels are the nearest entries of a table of shift 8,
# 0.0003 away at most.  It has no rolling cache: beyond 7 chunks it starts anew, where this rolls.
CAUSVID = dataclasses.replace(
    SELF_FORCING,
    name="causvid",
    sampler=SamplerConfig(kind="few_step", steps=3, shift=1.0, few_step=(1000.0, 757.0, 522.0)),
)

# SkyReels-V2-DF-1.3B-540P: windows of 97 frames, 17 of them the end of the window before; one caption at a
# time and no memory but those frames.
SKYREELS = ModelConfig(
    name="skyreels-1.3b",
    chunk=ChunkConfig(height=544, width=960, fps=24, frames=80, first="overlap", overlap_frames=17),
    dit=DiTConfig(fps_embedding=True, dtype="bfloat16", remat="full"),
    memory=MemoryConfig(slots=1, capacity=1, anchor=False),
    retrieval=RetrievalConfig(kind="none", num_recent=0, num_retrieved=0),
    rope=RopeConfig(mode="local"),
    noise=NoiseConfig(base="independent", shuffle=0),
    sampler=SamplerConfig(steps=30, shift=8.0, corrector="skyreels", history_noise=20.0),
    guidance=GuidanceConfig(scale=6.0),
)

# The paper's model (section 5.1): post-trained from SkyReels-V2-DF-1.3B, whose DiT it has with its frame-rate
# embedding and whose sampler it keeps, with T = 96 at 24 fps (15 chunks a minute), the bank (tau = 0.98, l = 2) and
# shuffled noise (s = 4).  The paper's 480p is 854 x 480, which no patch divides; 832 x 480 is Wan's.
BLOCKVID_1_3B = ModelConfig(
    name="blockvid-1.3b",
    dit=SKYREELS.dit,
    sampler=SamplerConfig(steps=30, shift=8.0, corrector="skyreels"),
    guidance=GuidanceConfig(scale=6.0),
)

# The same of the 14B model, which has no frame-rate embedding.
BLOCKVID_14B = dataclasses.replace(BLOCKVID_1_3B, name="blockvid-14b", dit=WAN_14B.dit)

# The same of 1.3B with slots of whole chunks, so that tau alone decides what is kept: 110 GB of bank in the host's memory,
# of which a chunk's entries come to the device.
BLOCKVID_1_3B_WHOLE = dataclasses.replace(
    BLOCKVID_1_3B,
    name="blockvid-1.3b-whole",
    memory=MemoryConfig(capacity=24 * 1560, offload="host"),
)

# A checkpoint without a name is the first of these that has its sizes.
PRESETS = {
    preset.name: preset
    for preset in (
        MINI,
        WAN_1_3B,
        WAN_14B,
        SELF_FORCING,
        LONGLIVE,
        CAUSVID,
        SKYREELS,
        BLOCKVID_1_3B,
        BLOCKVID_14B,
        BLOCKVID_1_3B_WHOLE,
    )
}


def get_preset(name: str) -> ModelConfig:
    """The preset called `name`; raises `UserError` listing the legal names."""
    if name not in PRESETS:
        raise UserError(f"there is no preset {name!r}; the presets are {', '.join(PRESETS)}")
    return PRESETS[name]

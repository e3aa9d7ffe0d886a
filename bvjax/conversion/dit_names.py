"""Names of the DiT's tensors: ours, the original Wan2.1 format, and that of diffusers.

SkyReels-V2-DF and the Self-Forcing family use the original names; SkyReels adds the fps embedding.
Mind norm3 and norm2: diffusers numbers the norms by their place in the block, so its norm2 is the
affine one before cross-attention, which the original calls norm3.  The norms without parameters
have no row.
"""

from __future__ import annotations

from bvjax.config import DiTConfig
from bvjax.conversion.tables import (
    AFFINE,
    EMBED,
    LEADING_ONE,
    LINEAR,
    MATRIX,
    PLAIN,
    SCALE,
    Row,
    patch_conv,
)

FORMATS = ("wan", "diffusers")


def rows(dit: DiTConfig) -> list[Row]:
    """The table; `dit` gives the patch size."""
    table = [
        ("patch_embedding", "patch_embedding", "patch_embedding", patch_conv(dit.patch)),
        ("text_embedding/0", "text_embedding.0", f"{_EMBEDDER}.text_embedder.linear_1", LINEAR),
        ("text_embedding/2", "text_embedding.2", f"{_EMBEDDER}.text_embedder.linear_2", LINEAR),
        ("time_embedding/0", "time_embedding.0", f"{_EMBEDDER}.time_embedder.linear_1", LINEAR),
        ("time_embedding/2", "time_embedding.2", f"{_EMBEDDER}.time_embedder.linear_2", LINEAR),
        ("time_projection/1", "time_projection.1", f"{_EMBEDDER}.time_proj", LINEAR),
        (
            "blocks/{i}/modulation",
            "blocks.{i}.modulation",
            "blocks.{i}.scale_shift_table",
            LEADING_ONE,
        ),
        *_attention("self_attn", "attn1"),
        *_attention("cross_attn", "attn2"),
        ("blocks/{i}/norm3", "blocks.{i}.norm3", "blocks.{i}.norm2", AFFINE),
        ("blocks/{i}/ffn/0", "blocks.{i}.ffn.0", "blocks.{i}.ffn.net.0.proj", LINEAR),
        ("blocks/{i}/ffn/2", "blocks.{i}.ffn.2", "blocks.{i}.ffn.net.2", LINEAR),
        ("head/modulation", "head.modulation", "scale_shift_table", LEADING_ONE),
        ("head/head", "head.head", "proj_out", LINEAR),
        # SkyReels-V2-DF
        ("fps_embedding", "fps_embedding", "fps_embedding", EMBED),
        ("fps_projection/0", "fps_projection.0", "fps_projection.net.0.proj", LINEAR),
        ("fps_projection/2", "fps_projection.2", "fps_projection.net.2", LINEAR),
        # ours alone: `torch_classes` has modules that know them
        ("place_embedding", "place_embedding", "patch_embedding.place", MATRIX),
        (
            "previous_embedding",
            "previous_embedding",
            "patch_embedding.previous",
            patch_conv(dit.patch)[:1],
        ),
        ("text_modulation", "text_modulation", f"{_EMBEDDER}.text_modulation", MATRIX),
        (
            "blocks/{i}/self_attn/similarity_key",
            "blocks.{i}.self_attn.similarity_key",
            "blocks.{i}.attn1.similarity_key",
            PLAIN,
        ),
    ]
    return [Row(internal, (wan, diffusers), leaves) for internal, wan, diffusers, leaves in table]


def _attention(name: str, diffusers_name: str) -> list[tuple]:
    internal, wan, diffusers = (
        f"blocks/{{i}}/{name}",
        f"blocks.{{i}}.{name}",
        f"blocks.{{i}}.{diffusers_name}",
    )
    linear = [(f"{internal}/{x}", f"{wan}.{x}", f"{diffusers}.to_{x}", LINEAR) for x in "qkv"]
    norms = [
        (f"{internal}/norm_{x}", f"{wan}.norm_{x}", f"{diffusers}.norm_{x}", SCALE) for x in "qk"
    ]
    return [*linear, (f"{internal}/o", f"{wan}.o", f"{diffusers}.to_out.0", LINEAR), *norms]


_EMBEDDER = "condition_embedder"

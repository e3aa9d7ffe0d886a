"""Names of the umT5 encoder's tensors: ours, the original Wan2.1 .pth, and transformers."""

from __future__ import annotations

from bvjax.conversion.tables import EMBED, MATRIX, SCALE, Row

FORMATS = ("wan", "transformers")
# transformers keeps the embedding under two names for one tensor; files may hold either or both.
TIED = {"encoder.embed_tokens.weight": "shared.weight"}


def rows() -> list[Row]:
    """The table."""
    block, attention = "encoder.block.{i}", "encoder.block.{i}.layer.0.SelfAttention"
    dense = f"{block}.layer.1.DenseReluDense"
    table = [
        ("token_embedding", "token_embedding", "shared", EMBED),
        ("blocks/{i}/norm1", "blocks.{i}.norm1", f"{block}.layer.0.layer_norm", SCALE),
        *(
            (f"blocks/{{i}}/attn/{x}", f"blocks.{{i}}.attn.{x}", f"{attention}.{x}", MATRIX)
            for x in "qkvo"
        ),
        (
            "blocks/{i}/pos_embedding",
            "blocks.{i}.pos_embedding.embedding",
            f"{attention}.relative_attention_bias",
            EMBED,
        ),
        ("blocks/{i}/norm2", "blocks.{i}.norm2", f"{block}.layer.1.layer_norm", SCALE),
        ("blocks/{i}/ffn/gate", "blocks.{i}.ffn.gate.0", f"{dense}.wi_0", MATRIX),
        ("blocks/{i}/ffn/fc1", "blocks.{i}.ffn.fc1", f"{dense}.wi_1", MATRIX),
        ("blocks/{i}/ffn/fc2", "blocks.{i}.ffn.fc2", f"{dense}.wo", MATRIX),
        ("norm", "norm", "encoder.final_layer_norm", SCALE),
    ]
    return [
        Row(internal, (wan, transformers), leaves) for internal, wan, transformers, leaves in table
    ]

"""Networks (flax.linen, used through init/apply only): DiT, RoPE, VAE, text encoder."""

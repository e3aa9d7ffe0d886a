"""Networks (flax.linen, used through init/apply only): DiT, RoPE, VAE, text encoder.

`bvjax.denoiser.types` has the legend of the shape letters.
"""

"""bvjax: minute-long video by block diffusion with a semantic sparse KV bank, in JAX."""

__version__ = "0.2.0"

"""bvjax: minute-long video by block diffusion with a semantic sparse KV bank, in JAX."""

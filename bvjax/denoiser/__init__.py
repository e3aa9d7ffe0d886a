"""The model applied to one chunk: what generation, training and evaluation share.

  types.py     ChunkInput, Latents, and what the memory is to a chunk (MemoryState, EncodedChunk)
  context.py   which entries a chunk sees, as the context of each branch (`prepare_context`)
  passes.py    the two passes of the network: the velocity of noisy chunks, and the clean pass
  guidance.py  guidance by the caption and by what was retrieved, the only statement of its rule
  denoise.py   the guided velocity of a window, and from noise to latents (`denoise_chunk`)
  exit_step.py the few-step sampler up to a traced evaluation, and that evaluation with its derivative
  encode.py    finished latents as an entry (`encode_chunk`), and into the bank (`write_chunk`)

All are pure functions that can be differentiated; one video at a time, but for `passes.py`, which
takes batches (use `jax.vmap` for several).
"""

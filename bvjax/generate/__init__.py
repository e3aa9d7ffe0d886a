"""From captions to latents and frames: arrays in, arrays out; nothing here reads or writes a file.

conditions.py    captions -> text states and embeddings
steps.py         what each chunk is given, and the programs of `bvjax.denoiser` that make it
rollout.py       `rollout` (one scan over chunks), `stream` (driven from the host), `rebuild_bank`
host_bank.py     the bank of a `stream` in pinned host memory
decoding.py      latents -> frames as they come
encoding.py      frames -> latents, chunk by chunk
chunk_memory.py  what the memory did for a chunk, in plain numbers
checks.py        checks that a configuration can generate at all
"""

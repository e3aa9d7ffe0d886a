"""The semantic sparse KV bank (paper section 3.4, Algorithms 1 and 2).

  importance.py    which tokens of a finished chunk are kept (BuildSparseKV, Eq. 6, 7)
  bank.py        KVBank: fixed slots, one write function, legal configurations
  slot_table.py  which chunk is in which slot, eviction
  storage.py     rows as they are stored: cast, or 8 bits with scales
  rules.py       the retrieval rules: how past chunks are scored, one row each
  retrieval.py   which entries a chunk sees (Eq. 8, 9) and their rows as one packed context
  positions.py   RoPE time of every entry: absolute, local, window or packed
  similarity.py  cosine of caption embeddings

A chunk's way through it: `probe_indices` -> the DiT's clean pass -> `keep_mask` -> `keep_rows` ->
`write`; later `retrieve` -> `time_bases` -> `assemble`.
"""

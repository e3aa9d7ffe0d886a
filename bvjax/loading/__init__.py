"""A weights folder as generation uses it, and what is kept on disk between runs.

bundle.py        configuration, tokenizer, hashes, and parameters that are read late
text_cache.py    text states of captions that were encoded before
cache_folder.py  where they are, and the hashes of files
"""

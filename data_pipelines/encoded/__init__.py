"""Encoded examples: what the DiT trains on, whichever data set they come from.

`example` says what one is and what a source of them has, `folder` keeps them in files, `manifest` ties a folder to
the weights that made it, `encoders` makes them of frames and captions, `batches` hands them out.
"""

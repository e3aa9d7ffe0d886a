"""Networks of the official metrics: pure functions on parameters named as published.

resize.py        resizing as PyTorch does it
vit.py           layers that the vision transformers share
dino.py          DINO ViT-B/16 (subject)
clip_vision.py   CLIP's image towers ViT-B/32 (background) and ViT-L/14 (aesthetic)
musiq.py         MUSIQ (clarity)
conv.py          convolutions, norms and padding of the networks below
sampling.py      values between pixels; warping
correlation.py   all-pairs correlations and windows of them
amt.py           AMT-S (motion)
raft.py          RAFT (dynamic degree; optical flow)
"""

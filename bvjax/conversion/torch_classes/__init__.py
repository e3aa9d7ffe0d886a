"""PyTorch classes of what bvjax adds to Wan's networks; exports carry the files beside the weights.

They import diffusers and nothing of bvjax, and work where bvjax is not installed.
"""

"""The DiT's parameters with LoRAs in them, in memory: what a conversion must have written."""

import dataclasses

import flax.traverse_util
import numpy as np

from bvjax.conversion import lora
from bvjax.weights import disk_names, flatten


def merge(params, loras):
    """Summed in float32, of the dtype of `params`."""
    flat = flatten(params)
    changed = {}
    for name, (leaf, layer) in disk_names(flat).items():
        if any(name in each.changes for each in loras):
            whole = changed.setdefault(leaf, np.array(flat[leaf]))
            at = () if layer is None else layer
            whole[at] = lora.merge_tensor(loras, name, whole[at]).astype(whole.dtype)
    return flax.traverse_util.unflatten_dict(flat | changed, sep="/")


def unmerge(params, loras):
    """Inverse of `merge` up to rounding: half an ulp of the merged weight and one of the result."""
    return merge(params, [dataclasses.replace(x, strength=-x.strength) for x in loras[::-1]])

"""Published peaks of accelerators.  Dense bfloat16, one chip (TPU) or one GPU."""

from __future__ import annotations

import dataclasses

from bvjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
    """`link` is what one device can receive from its neighbours along one mesh axis, `network` from other hosts.

    None: links between hosts are as those inside of one.
    """

    name: str
    flops: float  # bfloat16 FLOP/s
    memory: float  # bytes
    bandwidth: float  # bytes/s of its memory
    link: float  # bytes/s
    source: str
    network: float | None = None  # bytes/s


_TPU = "https://cloud.google.com/tpu/docs/"
# Two links of a torus axis, one to each neighbour: https://jax-ml.github.io/scaling-book/tpus/
# NVLink of the fourth generation: 900 GB/s in both directions together.  Between hosts a GPU has 400 Gbit/s of
# InfiniBand: https://docs.nvidia.com/dgx/dgxh100-user-guide/introduction-to-dgxh100.html
_INFINIBAND = 50e9
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", 197e12, 16 * 2**30, 819e9, 9e10, _TPU + "v5e"),
        Chip("v5p", 459e12, 95 * 2**30, 2765e9, 18e10, _TPU + "v5p"),
        Chip("v6e", 918e12, 32 * 2**30, 1638e9, 18e10, _TPU + "v6e"),
        Chip(
            "h100",
            989e12,
            80e9,
            3.35e12,
            450e9,
            "https://www.nvidia.com/en-us/data-center/h100/ (SXM)",
            _INFINIBAND,
        ),
        Chip(
            "h200",
            989e12,
            141e9,
            4.8e12,
            450e9,
            "https://www.nvidia.com/en-us/data-center/h200/ (SXM)",
            _INFINIBAND,
        ),
    )
}


def find_chip(name: str) -> Chip:
    """The chip of a name in any case; raises `UserError` with the known ones."""
    if name.lower() not in CHIPS:
        raise UserError(f"there is no chip {name!r}; known are {', '.join(CHIPS)}")
    return CHIPS[name.lower()]


def chip_of(device_kind: str) -> Chip | None:
    """The chip of a device as JAX names it (`TPU v5p`, `NVIDIA H200`); None if it is not known."""
    kind = {"TPU v5": "TPU v5p"}.get(device_kind, device_kind).lower().replace(" lite", "e")
    matching = [chip for name, chip in CHIPS.items() if name in kind]
    return matching[0] if matching else None

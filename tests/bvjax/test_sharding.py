"""How devices of several slices are laid out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.sharding import arranged


@dataclasses.dataclass(frozen=True)
class Device:
    """A device that is not here."""

    id: int
    slice_index: int
    process_index: int
    platform: str = "gpu"
    device_kind: str = "none that has a topology"


def machines(slices: int, each: int, **fields) -> list[Device]:
    """Devices in an order in which neighbours are of different slices."""
    return [Device(s * each + i, s, s, **fields) for i in range(each) for s in range(slices)]


@pytest.mark.parametrize("shape", [(4, 1, 2, 1), (2, 2, 1, 2), (8, 1, 1, 1), (6, 1, 2, 1)])
def test_only_data_crosses_slices(shape):
    slices, each = 2, int(np.prod(shape)) // 2
    array = arranged(shape, machines(slices, each))
    assert array.shape == shape and len({d.id for d in array.flat}) == 2 * each
    of = np.vectorize(lambda device: device.slice_index)(array)
    for row in of:  # of one place along data
        assert len(set(row.flat)) == 1
    assert set(of[: shape[0] // 2].flat) == {0} and set(of[shape[0] // 2 :].flat) == {1}


def test_tpu_slices_that_data_cannot_be_cut_over_are_refused():
    with pytest.raises(UserError, match="over 2 slices and only data .* multiple of 2; data is 1"):
        arranged((1, 4, 1, 1), machines(2, 2, platform="tpu"))


def test_gpus_of_several_hosts_keep_their_order_where_data_does_not_divide():
    devices = sorted(machines(2, 2), key=lambda device: device.id)
    assert [d.id for d in arranged((1, 4, 1, 1), devices).flat] == [0, 1, 2, 3]

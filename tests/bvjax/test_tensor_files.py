"""The streaming safetensors reader and writer against the library's own."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bvjax.errors import UserError
from bvjax.tensor_files import TensorFile, TensorInfo, TensorWriter


def tensors():
    rng = np.random.default_rng(0)
    return {
        "b": rng.normal(size=(4, 3, 2)).astype(np.float32),
        "a": rng.normal(size=5).astype(ml_dtypes.bfloat16),
        "scalar": np.array(2.5, np.float16),
        "empty": np.zeros((0, 3), np.float32),
    }


def infos(arrays):
    return {name: TensorInfo(x.shape, x.dtype.name) for name, x in arrays.items()}


def write(path, arrays, order):
    with TensorWriter(path, infos(arrays), {"part": "dit"}) as writer:
        for name in order:
            writer.write(name, arrays[name])


def test_the_library_reads_what_the_writer_writes_in_any_order(tmp_path):
    arrays = tensors()
    write(tmp_path / "x.safetensors", arrays, reversed(list(arrays)))
    found = load_file(tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == [tmp_path / "x.safetensors"]
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


def test_the_reader_reads_what_the_library_writes(tmp_path):
    arrays = tensors()
    save_file(arrays, tmp_path / "x.safetensors", {"part": "vae"})
    file = TensorFile(tmp_path / "x.safetensors")
    assert file.metadata == {"part": "vae"} and file.infos == infos(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(file.read(name), array)


@pytest.mark.parametrize("rows", [slice(None), slice(1, 3), slice(0, 0), slice(3, None)])
def test_a_part_is_the_part_of_the_whole(tmp_path, rows):
    arrays = tensors()
    write(tmp_path / "x.safetensors", arrays, arrays)
    file = TensorFile(tmp_path / "x.safetensors")
    for index in ((rows,), (rows, slice(1, 2)), (rows, slice(None), slice(1, 2))):
        np.testing.assert_array_equal(file.read("b", index), arrays["b"][index])


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    arrays = tensors()
    with pytest.raises(ValueError, match="never written: .*'a'"):
        write(tmp_path / "x.safetensors", arrays, ["b"])
    with pytest.raises(ValueError, match="b is float64"):
        with TensorWriter(tmp_path / "x.safetensors", infos(arrays)) as writer:
            writer.write("b", arrays["b"].astype(float))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [0, 4, 60, -1])
def test_a_file_cut_short_is_refused(tmp_path, keep):
    arrays = tensors()
    path = tmp_path / "x.safetensors"
    write(path, arrays, arrays)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="is damaged or not a safetensors file"):
        TensorFile(path)


def test_a_dtype_that_numpy_has_not(tmp_path):
    """Its name is known, so that it can be refused; NumPy's own "U16" is text."""
    path = tmp_path / "x.safetensors"
    header = b'{"a":{"dtype":"U16","shape":[2],"data_offsets":[0,4]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    file = TensorFile(path)
    assert file.infos == {"a": TensorInfo((2,), "U16")}
    with pytest.raises(
        UserError, match="x.safetensors: a has dtype U16, which bvjax does not read"
    ):
        file.read("a")


def test_a_file_that_became_shorter(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": np.zeros(100, np.float32)}, path)
    file = TensorFile(path)
    path.write_bytes(path.read_bytes()[:-1])
    for index in (None, (slice(50, 100),)):
        with pytest.raises(UserError, match="was cut short after it was opened: a is not whole"):
            file.read("a", index)
    np.testing.assert_array_equal(file.read("a", (slice(0, 50),)), np.zeros(50, np.float32))

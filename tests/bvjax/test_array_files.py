"""Arrays of strangers: read to the bit, or refused in one sentence that names the file."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bvjax.array_files import read_npy, read_npz
from bvjax.errors import UserError
from bvjax.files import npy_bytes, npz_bytes

ARRAY = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
WHOLE = npy_bytes(ARRAY)


@pytest.mark.parametrize(
    "array", [ARRAY, ARRAY[:0], np.float32(3), np.array(["é", "狐"]), ARRAY.astype(np.int8)]
)
def test_what_was_written_is_read(array):
    found = read_npy(npy_bytes(np.asarray(array)), "x")
    np.testing.assert_array_equal(found, array)
    assert found.dtype == np.asarray(array).dtype


def header(text):
    content = text.encode().ljust(WHOLE.index(b"\n") - 10) + b"\n"
    return WHOLE[:8] + len(content).to_bytes(2, "little") + content + WHOLE[-96:]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        WHOLE[:-1],
        WHOLE + b"0",
        npy_bytes(np.asfortranarray(ARRAY)),
        npy_bytes(np.array([{}], object)),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (-4, -6)}"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (2147483648, 4294967296)}"),
        header("{'descr': '|S0', 'fortran_order': False, 'shape': (24,)}"),
        header("(((((((((((("),
    ],
)
def test_what_was_not_is_refused(content):
    with pytest.raises(UserError, match="^x "):
        read_npy(content, "x")


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_a_changed_byte_is_an_array_of_that_size_or_refused(place, byte):
    content = bytearray(WHOLE)
    content[place] = byte
    try:
        assert read_npy(bytes(content), "x").nbytes == ARRAY.nbytes
    except UserError as error:
        assert str(error).startswith("x ") and "\n" not in str(error)


@given(st.data())
def test_archives_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "some.npz"
    content = bytearray(npz_bytes(a=ARRAY, b=ARRAY[0]))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        assert all(array.size <= len(content) for array in read_npz(path).values())
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)


def test_archives(tmp_path):
    path = tmp_path / "some.npz"
    with pytest.raises(FileNotFoundError):
        read_npz(path)
    path.write_bytes(npz_bytes(a=ARRAY, b=ARRAY[0]))
    found = read_npz(path)
    assert list(found) == ["a", "b"]
    np.testing.assert_array_equal(found["b"], ARRAY[0])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=np.zeros(10**6))
    path.write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="compressed"):
        read_npz(path)

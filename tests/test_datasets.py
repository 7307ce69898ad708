"""Tests of `fastnn.datasets`: hostile files, the search for data, downloads, preparation.

FASTNN_DATA adds the real MNIST files to the run; FASTNN_FUZZ sets the number of mutated inputs,
FASTNN_INTERRUPTS that of interrupted downloads.
"""

import contextlib
import gzip
import hashlib
import http.server
import math
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from conftest import ctrl_c_after
from hypothesis import given, settings
from hypothesis import strategies as st

from fastnn import datasets

REAL_DATA = os.environ.get("FASTNN_DATA")
FUZZ = int(os.environ.get("FASTNN_FUZZ", "6000"))
INTERRUPTS = int(os.environ.get("FASTNN_INTERRUPTS", "10"))
MIB = 1 << 20
CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx(array):
    """The bytes of an IDX file, written without any code of the package's."""
    array = np.asarray(array)
    header = struct.pack(
        f">BBBB{array.ndim}I", 0, 0, CODES[array.dtype.str[1:]], array.ndim, *array.shape
    )
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def header(*dims, code=0x08, ndim=None):
    return struct.pack(f">BBBB{len(dims)}I", 0, 0, code, ndim or len(dims), *dims)


def refused(path):
    """The error that `read_idx` raises, which must be the documented one and name the file."""
    with pytest.raises(datasets.DataError) as caught:
        datasets.read_idx(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.fixture
def place(tmp_path):
    """Write bytes to a file; the path."""

    def write(content, name="file"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


# ------------------------------------------------------------------------------ IDX files


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("shape", [(5,), (0,), (3, 4), (2, 3, 5), (2, 0, 3), (1, 2, 1, 3)])
@pytest.mark.parametrize("dtype", CODES)
def test_reads_every_type(place, dtype, shape, packed):
    rng = np.random.default_rng(len(shape))
    want = rng.integers(0, 256, (math.prod(shape) * np.dtype(dtype).itemsize,), dtype=np.uint8)
    want = want.view(dtype).reshape(shape)
    content = idx(want)
    got = datasets.read_idx(place(gzip.compress(content) if packed else content))
    assert got.dtype == np.dtype(dtype) and got.dtype.isnative
    assert got.shape == shape
    assert got.tobytes() == want.tobytes()
    assert got.flags.writeable and got.flags.c_contiguous and got.flags.aligned


def test_compression_is_recognised_by_content(place):
    content = idx(np.arange(6, dtype=np.uint8))
    assert datasets.read_idx(place(content, "plain.gz")).tolist() == [0, 1, 2, 3, 4, 5]
    assert datasets.read_idx(str(place(gzip.compress(content), "packed"))).sum() == 15


def test_reads_gzip_with_all_header_fields(place):
    content = idx(np.arange(6, dtype=np.uint8))
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = deflate.compress(content) + deflate.flush()
    flags = 0x02 | 0x04 | 0x08 | 0x10
    head = b"\x1f\x8b\x08" + bytes([flags]) + bytes(6) + b"\x03\x00abc" + b"name\0" + b"note\0"
    head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    tail = struct.pack("<II", zlib.crc32(content), len(content))
    assert datasets.read_idx(place(head + body + tail)).sum() == 15


@pytest.mark.parametrize("size", [datasets._BLOCK - 16, 2 * datasets._BLOCK + 1])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_reads_across_blocks(place, size, level):
    want = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    want[: size // 2] = 0
    assert np.array_equal(datasets.read_idx(place(gzip.compress(idx(want), level))), want)
    assert np.array_equal(datasets.read_idx(place(idx(want))), want)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_truncation_at_every_offset(place, packed):
    content = idx(np.arange(200, dtype=np.uint8).reshape(2, 10, 10))
    content = gzip.compress(content) if packed else content
    for end in range(len(content)):
        refused(place(content[:end]))
    datasets.read_idx(place(content))


GOOD = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
PACKED = gzip.compress(GOOD)
HUGE = 2**32 - 1
RAW = {  # each also as the content of an intact gzip file
    "one zero": b"\0",
    "two zeros": b"\0\0",
    "magic only": b"\0\0\x08\x03",
    "zeros": bytes(64),
    "text": b"hello, world: not an IDX file",
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
    "npy": b"\x93NUMPY\x01\x00",
    "zip": b"PK\x03\x04" + bytes(30),
    "pickle": b"\x80\x04\x95\x00",
    "png": b"\x89PNG\r\n\x1a\n",
    "little-endian magic": b"\x03\x08\0\0" + GOOD[4:],
    "first byte": b"\x01" + GOOD[1:],
    "second byte": b"\0\x01" + GOOD[2:],
    "code 00": b"\0\0\0\x03" + GOOD[4:],
    "code 07": b"\0\0\x07\x03" + GOOD[4:],
    "code 0a": b"\0\0\x0a\x03" + GOOD[4:],
    "code 0f": b"\0\0\x0f\x03" + GOOD[4:],
    "code ff": b"\0\0\xff\x03" + GOOD[4:],
    "no dimensions": b"\0\0\x08\0\x05",
    "33 dimensions": header(*[1] * 33) + b"\0",
    "255 dimensions": header(*[1] * 255) + b"\0",
    "255 dimensions declared, 1 there": header(1, ndim=255),
    "one dimension more": b"\0\0\x08\x04" + GOOD[4:],
    "one dimension fewer": b"\0\0\x08\x02" + GOOD[4:],
    "wider type": b"\0\0\x0e\x03" + GOOD[4:],
    "trailing byte": GOOD + b"\0",
    "trailing newline": GOOD + b"\n",
    "twice": GOOD + GOOD,
    "last byte missing": GOOD[:-1],
    "no payload": GOOD[:16],
    "empty array, trailing byte": header(0, 28, 28) + b"\0",
    "2**31": header(2**31),
    "2**32 - 1": header(HUGE),
    "2**31 x 8 bytes": header(2**31, code=0x0E),
    "2**32": header(2**16, 2**16),
    "2**33 wraps to 0 in 32 bits": header(2**17, 2**16),
    "2**48": header(2**16, 2**16, 2**16),
    "2**61 x 8 bytes": header(2**31, 2**30, code=0x0E),
    "2**62": header(2**31, 2**31),
    "2**62 x 2 bytes": header(2**31, 2**31, code=0x0B),
    "2**63 - ...": header(HUGE, 2**31),
    "2**63": header(2**31, 2**31, 2),
    "2**64 wraps to 0": header(2**16, 2**16, 2**16, 2**16),
    "2**64 + 24 wraps to 24": header(2**31, 2**31, 4) + GOOD[16:],
    "almost 2**64": header(HUGE, HUGE) + GOOD[16:],
    "almost 2**96": header(HUGE, HUGE, HUGE),
    "almost 2**1024": header(*[HUGE] * 32),
    "0 x 2**64": header(0, HUGE, HUGE, HUGE),
    "2**64 x 0": header(HUGE, HUGE, HUGE, 0),
    "0 x 2**60 x 8 bytes": header(0, 2**30, 2**30, code=0x0E),
    "swapped byte order in a dimension": header(2 << 24, 3, 4) + GOOD[16:],
    "gzip magic alone": b"\x1f\x8b",
    "gzip of method 7": b"\x1f\x8b\x07" + PACKED[3:],
    "gzip with reserved flags": PACKED[:3] + b"\xe0" + PACKED[4:],
    "gzip with a wrong checksum": PACKED[:-8] + bytes(4) + PACKED[-4:],
    "gzip with a wrong length": PACKED[:-4] + bytes(4),
    "gzip with a bad block": PACKED[:10] + b"\xff" * 20,
    "gzip without its trailer": PACKED[:-8],
    "gzip, then a byte": PACKED + b"\0",
    "gzip, then text": PACKED + b"garbage",
    "gzip twice": PACKED + PACKED,
    "gzip in two halves": gzip.compress(GOOD[:20]) + gzip.compress(GOOD[20:]),
    "gzip, then an empty member": PACKED + gzip.compress(b""),
    "gzip of nothing": gzip.compress(b""),
    "zlib instead of gzip": zlib.compress(GOOD),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "in gzip"])
@pytest.mark.parametrize("attack", RAW)
def test_attacks(place, attack, packed):
    content = RAW[attack]
    refused(place(gzip.compress(content) if packed else content))


def test_messages_say_what_was_wrong(place):
    assert "is empty" in refused(place(b""))
    assert "inside its header, after 2 bytes" in refused(place(b"\0\0"))
    assert "3c 21 44 4f" in refused(place(RAW["html"]))
    assert "shape (2, 3, 4)" in refused(place(GOOD + b"\0"))
    assert "at most 39" in refused(place(GOOD[:-1]))
    assert "single gzip member" in refused(place(PACKED + PACKED))
    assert "ends early" in refused(place(PACKED[:-1]))


def test_not_a_file(tmp_path):
    assert "regular" in refused(tmp_path)
    assert "No such file" in refused(tmp_path / "nothing")
    refused(tmp_path / "nothing" / "deeper")
    refused(tmp_path / ("x" * 300))
    with pytest.raises(datasets.DataError):
        datasets.read_idx("a\0b")
    link = tmp_path / "link"
    link.symlink_to(link)
    refused(link)
    os.mkfifo(tmp_path / "fifo")
    refused(tmp_path / "fifo")  # and does not wait for a writer


@pytest.mark.parametrize("path", [None, 0, 3.5, b"bytes", ["list"], True])
def test_not_a_path(path):
    with pytest.raises(TypeError, match="path"):
        datasets.read_idx(path)


# ------------------------------------------------------------------------------ memory


@contextlib.contextmanager
def peak_memory(limit):
    """Fail if what runs inside holds more than `limit` bytes at any time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] <= limit
    finally:
        tracemalloc.stop()


def bomb(start, size):
    """A gzip file that begins with `start` and goes on with `size` zeros, of no valid end."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = deflate.compress(start) + deflate.flush(zlib.Z_FULL_FLUSH)
    block = deflate.compress(bytes(16 * MIB)) + deflate.flush(zlib.Z_FULL_FLUSH)
    return head + block * (size // (16 * MIB))


def test_bombs_stay_small(place):
    # 8 GiB of zeros each; the header stops the reading long before.
    for start, limit in [
        (b"", 8 * MIB),
        (header(5) + bytes(5), 8 * MIB),
        (header(0, 28, 28), 8 * MIB),
        (header(1000, 28, 28), 8 * MIB),
        (header(2**31, 2**31), 8 * MIB),
        (header(HUGE, HUGE, HUGE), 8 * MIB),
        (header(8 * MIB), 2 * 8 * MIB + 32 * MIB),
    ]:
        path = place(bomb(start, 8192 * MIB))
        with peak_memory(limit):
            refused(path)


def test_memory_follows_what_is_there_not_what_is_declared(place):
    noise = random.Random(0).randbytes(2 * MIB)
    path = place(gzip.compress(header(2**31 - 1) + noise, 0))  # 2 GiB is within deflate's ratio
    with peak_memory(2 * 2 * MIB + 32 * MIB):
        assert f"holds {2 * MIB} bytes" in refused(path)
    path = place(header(2**31) + noise)
    with peak_memory(4 * MIB):
        refused(path)


def test_memory_of_an_intact_file(place):
    content = idx(np.zeros((64, MIB), np.float64)[:, ::8].copy())
    for path in (place(content), place(gzip.compress(content, 1), "packed")):
        with peak_memory(2 * len(content) + 32 * MIB):
            assert datasets.read_idx(path).shape == (64, MIB // 8)


# ------------------------------------------------------------------------------ fuzz


def oracle(content):
    """Shape, type code and payload of an intact file, else None: another way to say the format."""
    if content[:2] == b"\x1f\x8b":
        inflater = zlib.decompressobj(31)
        try:
            content, rest = inflater.decompress(content), inflater.unused_data
        except zlib.error:
            return None
        if rest or not inflater.eof:
            return None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in CODES.values():
        return None
    ndim = content[3]
    if not 1 <= ndim <= 32 or len(content) < 4 + 4 * ndim:
        return None
    dims = struct.unpack_from(f">{ndim}I", content, 4)
    size = {0x08: 1, 0x09: 1, 0x0B: 2, 0x0C: 4, 0x0D: 4, 0x0E: 8}[content[2]]
    if math.prod(max(d, 1) for d in dims) * size >= 2**63:
        return None
    payload = content[4 + 4 * ndim :]
    return (dims, content[2], payload) if len(payload) == math.prod(dims) * size else None


def mutate(rng, content, seeds):
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = rng.randrange(len(content) + 1)
        # Most of what matters is in the first and last bytes.
        at = rng.choice(
            [at, min(at, rng.randrange(24)), max(0, len(content) - rng.randrange(1, 10))]
        )
        length = rng.choice([1, 1, 2, 4, rng.randrange(1, 40)])
        kind = rng.randrange(9)
        if kind == 0 and at < len(content):
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(content):
            content[at] = rng.choice([0, 1, 8, 9, 11, 12, 13, 14, 0x7F, 0x80, 0xFF])
        elif kind == 2:
            del content[at : at + length]
        elif kind == 3:
            content[at:at] = rng.randbytes(length)
        elif kind == 4:
            content[at:at] = content[at : at + length]
        elif kind == 5:
            number = rng.choice([0, 1, 2, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1])
            content[at : at + 4] = struct.pack(rng.choice("<>") + "I", number)
        elif kind == 6:
            del content[at:]
        elif kind == 7:
            other = rng.choice(seeds)
            content[at:] = other[rng.randrange(len(other)) :]
        elif kind == 8:
            content += rng.choice([b"\0", b"\n", rng.randbytes(length), bytes(content)])
    return bytes(content)


def test_mutated_files(tmp_path):
    rng = random.Random(20)
    plain = [
        idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4)),
        idx(np.arange(10, dtype=np.uint8)),
        idx(np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)),
        idx(np.arange(6, dtype=np.float64)),
        idx(np.arange(9, dtype=np.int16).reshape(3, 3)),
        idx(np.zeros((40, 16), np.uint8)),
    ]
    packed = [gzip.compress(content, level) for content in plain for level in (0, 9)]
    path = tmp_path / "mutant"
    path.touch()
    intact = 0
    tracemalloc.start()
    try:
        for number in range(FUZZ):
            if number % 3 == 0:
                content = mutate(rng, rng.choice(plain), plain)
            elif number % 3 == 1:
                content = gzip.compress(mutate(rng, rng.choice(plain), plain), 6)
            else:
                content = mutate(rng, rng.choice(packed), packed)
            # Overwritten in place: emptying a file first makes some file systems flush it.
            with open(path, "r+b") as file:
                file.write(content)
                file.truncate()
            want = oracle(content)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                got = datasets.read_idx(path)
            except datasets.DataError as error:
                assert want is None, (content, error)
                assert str(path) in str(error)
            else:
                assert want is not None, content
                dims, code, payload = want
                assert got.shape == dims and CODES[got.dtype.str[1:]] == code
                assert got.astype(got.dtype.newbyteorder(">")).tobytes() == payload
                intact += 1
            assert tracemalloc.get_traced_memory()[1] - before <= 2 * len(content) + 32 * MIB
    finally:
        tracemalloc.stop()
    assert intact > FUZZ // 50  # the mutants are not all of the trivially broken kind


# ------------------------------------------------------------------------------ finding data


def tiny_set(seed):
    rng = np.random.default_rng(seed)
    files = {}
    for part, n in (("train", 12), ("t10k", 5)):
        files[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        files[f"{part}-labels-idx1-ubyte"] = rng.integers(0, 10, n, dtype=np.uint8)
    return files


TINY = {"mnist": tiny_set(1), "fashion-mnist": tiny_set(2)}
LOADERS = {"mnist": datasets.load_mnist, "fashion-mnist": datasets.load_fashion_mnist}
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A world with tiny data sets, no files and no mirrors; its folders are made by the tests."""
    table = {
        name: {
            file: (array.shape, hashlib.sha256(idx(array)).hexdigest())
            for file, array in files.items()
        }
        for name, files in TINY.items()
    }
    monkeypatch.setattr(datasets, "_FILES", table)
    monkeypatch.setattr(datasets, "SYSTEM_FOLDER", str(tmp_path / "system"))
    monkeypatch.setattr(datasets, "MIRRORS", {"mnist": (), "fashion-mnist": ()})
    monkeypatch.delenv("FASTNN_DATA", raising=False)
    monkeypatch.setenv("FASTNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path


def fill(folder, name, packed=True, only=None, change=None):
    """Put a tiny data set into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, array in TINY[name].items():
        if only is None or file in only:
            content = idx(array)
            if change:
                content = change(content)
            if packed:
                (folder / f"{file}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / file).write_bytes(content)


def check(loaded, name):
    want = TINY[name]
    for (x, y), part in zip(loaded, ("train", "t10k"), strict=True):
        assert np.array_equal(x, want[f"{part}-images-idx3-ubyte"])
        assert np.array_equal(y, want[f"{part}-labels-idx1-ubyte"])
        assert x.dtype == np.uint8 and x.flags.c_contiguous and x.flags.writeable
        assert y.dtype == np.int32 and y.flags.c_contiguous and y.flags.writeable


def files_under(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("where", ["data/NAME", "data", "system/NAME", "cache/NAME"])
def test_every_place(home, monkeypatch, name, packed, where):
    monkeypatch.setenv("FASTNN_DATA", str(home / "data"))
    fill(home / where.replace("NAME", name), name, packed)
    check(LOADERS[name](download=False), name)


def test_order_of_places(home, monkeypatch):
    """An earlier place wins: what lies in the later ones is damaged and never read."""
    monkeypatch.setenv("FASTNN_DATA", str(home / "data"))
    places = [home / "data/mnist", home / "data", home / "system/mnist", home / "cache/mnist"]
    for place in reversed(places):
        fill(place, "mnist")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check(datasets.load_mnist(), "mnist")
        fill(place, "mnist", change=lambda content: content[:-1])


def test_a_set_spread_over_places(home, monkeypatch):
    monkeypatch.setenv("FASTNN_DATA", str(home / "data"))
    files = list(TINY["mnist"])
    fill(home / "data/mnist", "mnist", only=files[:1])
    fill(home / "data", "mnist", only=files[1:2], packed=False)
    fill(home / "system/mnist", "mnist", only=files[2:3])
    fill(home / "cache/mnist", "mnist", only=files[3:])
    check(datasets.load_mnist(), "mnist")


def test_relative_and_home_folders(home, monkeypatch):
    fill(home / "data/mnist", "mnist")
    monkeypatch.chdir(home)
    monkeypatch.setenv("FASTNN_DATA", "data")
    check(datasets.load_mnist(), "mnist")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("FASTNN_DATA", "~/data")
    check(datasets.load_mnist(), "mnist")


def test_folder_of_the_other_set_is_passed_over(home, monkeypatch):
    fill(home / "data", "mnist")
    fill(home / "cache/fashion-mnist", "fashion-mnist")
    monkeypatch.setenv("FASTNN_DATA", str(home / "data"))
    check(datasets.load_mnist(), "mnist")
    check(datasets.load_fashion_mnist(), "fashion-mnist")
    fill(home / "data/fashion-mnist", "mnist")  # but a wrong file under the right name is an error
    with pytest.raises(datasets.DataError, match=r"fashion-mnist/train-images.*but of mnist"):
        datasets.load_fashion_mnist()


DAMAGE = {
    "truncated": lambda content: content[:-1],
    "longer": lambda content: content + b"\0",
    "one bit": lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
    "empty": lambda content: b"",
    "not IDX": lambda content: b"<html>404</html>",
    "another shape": lambda content: idx(np.zeros((12, 28, 27), np.uint8)),
    "another type": lambda content: idx(np.zeros((12, 28, 28), np.int8)),
    "4 GiB declared": lambda content: header(HUGE, 28, 28) + content[16:],
}


@pytest.mark.parametrize("where", ["data/mnist", "data"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_in_fastnn_data_is_an_error(home, monkeypatch, damage, packed, where):
    fill(home / "cache/mnist", "mnist")  # an intact copy elsewhere does not hide it
    fill(home / where, "mnist", packed, only=[IMAGES], change=DAMAGE[damage])
    monkeypatch.setenv("FASTNN_DATA", str(home / "data"))
    with pytest.raises(datasets.DataError) as caught:
        datasets.load_mnist()
    assert str(home / where / IMAGES) in str(caught.value)


@pytest.mark.parametrize("where", ["system/mnist", "cache/mnist"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_elsewhere_is_passed_over_with_a_warning(home, damage, where):
    fill(home / where, "mnist", only=[IMAGES], change=DAMAGE[damage])
    fill(home / "cache/mnist", "mnist", packed=True)
    if where.startswith("cache"):
        fill(home / where, "mnist", packed=False, only=[IMAGES], change=DAMAGE[damage])
    with pytest.warns(UserWarning, match="passed over") as caught:
        check(datasets.load_mnist(), "mnist")
    assert str(home / where / IMAGES) in str(caught[0].message)
    assert caught[0].filename == __file__


def test_damaged_labels_are_named(home, monkeypatch):
    change = lambda content: content[:8] + b"\x0c" + content[9:]  # noqa: E731
    fill(home / "data/mnist", "mnist", only=[IMAGES])
    fill(home / "data/mnist", "mnist", only=[LABELS], change=change)
    monkeypatch.setenv("FASTNN_DATA", str(home / "data"))
    with pytest.raises(datasets.DataError, match="label 12 in row 0, expected 0 to 9"):
        datasets.load_mnist()


def test_unreadable_entries(home, monkeypatch):
    monkeypatch.setenv("FASTNN_DATA", str(home / "data"))
    (home / "data/mnist" / IMAGES).mkdir(parents=True)
    with pytest.raises(datasets.DataError, match="not a regular file"):
        datasets.load_mnist()
    (home / "data/mnist" / IMAGES).rmdir()
    (home / "data/mnist" / IMAGES).symlink_to(home / "nowhere")
    with pytest.raises(datasets.DataError, match="cannot be read"):
        datasets.load_mnist()


def test_nothing_anywhere_lists_every_place(home, monkeypatch):
    monkeypatch.setenv("FASTNN_DATA", str(home / "data"))
    (home / "system/mnist").mkdir(parents=True)
    fill(home / "cache/mnist", "mnist", only=[IMAGES], change=DAMAGE["truncated"])
    with pytest.warns(UserWarning), pytest.raises(datasets.DataError) as caught:
        datasets.load_mnist(download=False)
    message = str(caught.value)
    for part in (
        f"{home}/data/mnist: no such folder",
        f"{home}/data: no such folder",
        f"{home}/system/mnist: no {IMAGES}",
        f"{home}/cache/mnist/{IMAGES}.gz: ",
        "download=False",
        "Set FASTNN_DATA",
    ):
        assert part in message
    monkeypatch.delenv("FASTNN_DATA")
    with pytest.raises(datasets.DataError, match="FASTNN_DATA: not set"):
        datasets.load_fashion_mnist(download=False)


def test_cache_folder(home, monkeypatch):
    assert datasets._cache() == str(home / "cache")
    monkeypatch.delenv("FASTNN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "xdg"))
    assert datasets._cache() == str(home / "xdg/fastnn")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(home))
    assert datasets._cache() == str(home / ".cache/fastnn")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # a user without a home
    assert datasets._cache() is None
    with pytest.raises(datasets.DataError, match="no home folder"):
        datasets.load_mnist()


@pytest.mark.parametrize("download", [None, 1, "no", 0.0, [True]])
@pytest.mark.parametrize("name", LOADERS)
def test_download_argument(home, name, download):
    with pytest.raises(TypeError, match="download"):
        LOADERS[name](download=download)


# ------------------------------------------------------------------------------ downloads


class Server:
    """A web server on this machine whose folders misbehave in their own ways."""

    def __init__(self):
        outer = self
        self.requests = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                _, name, behaviour, file = self.path.split("/")
                outer.requests.append(f"{behaviour}/{file}")
                getattr(outer, behaviour)(self, name, file)

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()
        self.stopping = threading.Event()

    def close(self):
        self.stopping.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def mirror(self, behaviour, name="mnist", slash="/"):
        return f"http://127.0.0.1:{self.http.server_port}/{name}/{behaviour}{slash}"

    @staticmethod
    def content(name, file):
        return gzip.compress(idx(TINY[name][file.removesuffix(".gz")]), mtime=7)

    @staticmethod
    def send(request, body, length=None, **headers):
        request.send_response(200)
        request.send_header("Content-Length", str(len(body) if length is None else length))
        for key, value in headers.items():
            request.send_header(key.replace("_", "-"), value)
        request.end_headers()
        with contextlib.suppress(OSError):  # the client may have left
            request.wfile.write(body)

    def good(self, request, name, file):
        self.send(request, self.content(name, file))

    def encoded(self, request, name, file):
        self.send(request, self.content(name, file), Content_Encoding="gzip")

    def plain(self, request, name, file):
        self.send(request, idx(TINY[name][file.removesuffix(".gz")]))

    def missing(self, request, name, file):
        request.send_error(404)

    def broken(self, request, name, file):
        request.send_error(503)

    def portal(self, request, name, file):
        self.send(request, b"<html>Please sign in</html>")

    def empty(self, request, name, file):
        self.send(request, b"")

    def corrupted(self, request, name, file):
        content = bytearray(idx(TINY[name][file.removesuffix(".gz")]))
        content[-1] ^= 1
        self.send(request, gzip.compress(content))

    def bit_flipped(self, request, name, file):
        content = bytearray(self.content(name, file))
        content[len(content) // 2] ^= 4
        self.send(request, content)

    def other(self, request, name, file):
        self.send(request, self.content("fashion-mnist", file))

    def truncated(self, request, name, file):
        content = self.content(name, file)
        self.send(request, content[: len(content) // 2], length=len(content))

    def short(self, request, name, file):
        content = self.content(name, file)
        self.send(request, content[: len(content) // 2])

    def endless(self, request, name, file):
        self.send(request, bytes(4 * MIB), length=2**40)

    def bomb(self, request, name, file):
        self.send(request, bomb(header(12, 28, 28), 64 * MIB))

    def hangup(self, request, name, file):
        request.connection.close()

    def nonsense(self, request, name, file):
        with contextlib.suppress(OSError):
            request.wfile.write(b"\0\1\2\3 this is not HTTP\r\n\r\n")

    def silent(self, request, name, file):
        self.stopping.wait(5)

    def drip(self, request, name, file):
        request.send_response(200)
        request.send_header("Content-Length", "100000")
        request.end_headers()
        with contextlib.suppress(OSError):
            while not self.stopping.wait(0.002):
                request.wfile.write(b"\x1f")
                request.wfile.flush()


@pytest.fixture
def server(home):
    server = Server()
    yield server
    server.close()


def use(monkeypatch, *mirrors, name="mnist"):
    monkeypatch.setitem(datasets.MIRRORS, name, mirrors)


@pytest.mark.parametrize("slash", ["/", ""])
@pytest.mark.parametrize("behaviour", ["good", "encoded", "plain"])
def test_download_fills_the_cache(home, server, monkeypatch, behaviour, slash):
    use(monkeypatch, server.mirror(behaviour, slash=slash))
    check(datasets.load_mnist(), "mnist")
    for file, array in TINY["mnist"].items():
        assert (home / "cache/mnist" / file).read_bytes() == idx(array)
    assert files_under(home / "cache") == sorted(TINY["mnist"])
    assert len(server.requests) == 4
    check(datasets.load_mnist(download=False), "mnist")
    check(datasets.load_mnist(), "mnist")
    assert len(server.requests) == 4


def test_download_of_fashion_mnist(home, server, monkeypatch):
    use(monkeypatch, server.mirror("good", "fashion-mnist"), name="fashion-mnist")
    check(datasets.load_fashion_mnist(), "fashion-mnist")
    assert files_under(home / "cache/fashion-mnist") == sorted(TINY["fashion-mnist"])


BAD_MIRRORS = [
    "missing",
    "broken",
    "portal",
    "empty",
    "corrupted",
    "bit_flipped",
    "other",
    "truncated",
    "short",
    "endless",
    "bomb",
    "hangup",
    "nonsense",
]


@pytest.mark.parametrize("behaviour", BAD_MIRRORS)
def test_bad_mirror(home, server, monkeypatch, behaviour):
    bad = server.mirror(behaviour)
    use(monkeypatch, bad)
    with pytest.raises(datasets.DataError) as caught:
        datasets.load_mnist()
    assert f"{bad}{IMAGES}.gz: " in str(caught.value)
    assert files_under(home) == []
    use(monkeypatch, bad, server.mirror("good"))
    check(datasets.load_mnist(), "mnist")
    # The mirror that worked is asked first from then on.
    assert server.requests[1:] == [f"{behaviour}/{IMAGES}.gz"] + [
        f"good/{file}.gz" for file in TINY["mnist"]
    ]
    assert files_under(home) == sorted(TINY["mnist"])


def test_dead_port_then_success(home, server, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}/mnist/"
    use(monkeypatch, dead, "http://[", "no-such-scheme://x/", server.mirror("good"))
    check(datasets.load_mnist(), "mnist")
    use(monkeypatch, dead, "http://[", "no-such-scheme://x/")
    for path in (home / "cache/mnist").iterdir():
        path.unlink()
    with pytest.raises(datasets.DataError) as caught:
        datasets.load_mnist()
    for mirror in (dead, "http://[/", "no-such-scheme://x/"):
        assert f"{mirror}{IMAGES}.gz: " in str(caught.value)


def test_silent_mirror_times_out(home, server, monkeypatch):
    monkeypatch.setattr(datasets, "_TIMEOUT", (0.2, 0.2))
    use(monkeypatch, server.mirror("silent"), server.mirror("good"))
    check(datasets.load_mnist(), "mnist")


def test_every_mirror_bad_lists_all(home, server, monkeypatch):
    use(monkeypatch, *(server.mirror(behaviour) for behaviour in BAD_MIRRORS))
    with pytest.raises(datasets.DataError) as caught:
        datasets.load_mnist()
    for behaviour in BAD_MIRRORS:
        assert f"/{behaviour}/{IMAGES}.gz" in str(caught.value)


def test_a_bad_download_is_bounded(home, server, monkeypatch):
    use(monkeypatch, server.mirror("endless"), server.mirror("bomb"))
    with pytest.raises(datasets.DataError, match="more than"):
        datasets.load_mnist()  # imports what it needs
    with peak_memory(24 * MIB), pytest.raises(datasets.DataError):
        datasets.load_mnist()


def test_damaged_cache_is_repaired(home, server, monkeypatch):
    use(monkeypatch, server.mirror("good"))
    fill(home / "cache/mnist", "mnist", packed=False)
    (home / "cache/mnist" / LABELS).write_bytes(b"")
    with pytest.raises(datasets.DataError), pytest.warns(UserWarning):
        datasets.load_mnist(download=False)
    with pytest.warns(UserWarning, match="passed over"):
        check(datasets.load_mnist(), "mnist")
    assert server.requests == [f"good/{LABELS}.gz"]
    check(datasets.load_mnist(download=False), "mnist")


def test_files_in_fastnn_data_are_not_downloaded(home, server, monkeypatch):
    use(monkeypatch, server.mirror("good"))
    monkeypatch.setenv("FASTNN_DATA", str(home / "data"))
    fill(home / "data/mnist", "mnist", only=[IMAGES])
    check(datasets.load_mnist(), "mnist")
    assert len(server.requests) == 3 and files_under(home / "data") == [f"{IMAGES}.gz"]


def test_cache_that_cannot_be_written(home, server, monkeypatch):
    (home / "cache").write_bytes(b"a file, not a folder")
    use(monkeypatch, server.mirror("good"))
    with pytest.warns(UserWarning, match="cannot be kept in the cache") as caught:
        check(datasets.load_mnist(), "mnist")
    assert caught[0].filename == __file__


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failed_cache_write_leaves_nothing(home, server, monkeypatch, error):
    def fail(*paths):
        raise error

    use(monkeypatch, server.mirror("good"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        if isinstance(error, OSError):
            with pytest.warns(UserWarning, match="No space left"):
                check(datasets.load_mnist(), "mnist")
        else:
            with pytest.raises(KeyboardInterrupt):
                datasets.load_mnist()
    assert files_under(home) == []
    check(datasets.load_mnist(), "mnist")


def test_orphans_of_killed_processes_are_swept(home, server, monkeypatch):
    folder = home / "cache/mnist"
    folder.mkdir(parents=True)
    old, new = folder / ".x.1-00.part", folder / ".x.2-00.part"
    old.write_bytes(b"")
    new.write_bytes(b"")
    os.utime(old, (time.time() - 7200,) * 2)
    use(monkeypatch, server.mirror("good"))
    check(datasets.load_mnist(), "mnist")
    assert not old.exists() and new.exists()


def test_downloads_at_the_same_time(home, server, monkeypatch):
    use(monkeypatch, server.mirror("good"))
    failures = []

    def load():
        try:
            check(datasets.load_mnist(), "mnist")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=load) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert files_under(home) == sorted(TINY["mnist"])


def test_without_pooch(home, server, monkeypatch):
    use(monkeypatch, server.mirror("good"))
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(datasets.DataError, match="pip install pooch"):
        datasets.load_mnist()
    fill(home / "system/mnist", "mnist")
    check(datasets.load_mnist(), "mnist")


def test_interrupted_download_leaves_nothing(home, server, monkeypatch):
    use(monkeypatch, server.mirror("missing"))
    with pytest.raises(datasets.DataError):
        datasets.load_mnist()  # imports what it needs
    use(monkeypatch, server.mirror("drip"), server.mirror("good"))
    rng = random.Random(3)
    for _ in range(INTERRUPTS):
        with ctrl_c_after(rng.uniform(0.02, 0.2)):
            datasets.load_mnist()
        assert files_under(home) == []


# ------------------------------------------------------------------------------ real data


@pytest.mark.skipif(not REAL_DATA, reason="FASTNN_DATA is not set")
@pytest.mark.parametrize("name", LOADERS)
def test_real_data(name):
    (x, y), (x_test, y_test) = LOADERS[name](download=False)
    assert x.shape == (60000, 28, 28) and x_test.shape == (10000, 28, 28)
    assert x.dtype == x_test.dtype == np.uint8
    assert y.shape == (60000,) and y_test.shape == (10000,)
    assert y.dtype == y_test.dtype == np.int32
    for labels in (y, y_test):
        assert set(labels.tolist()) == set(range(10))
    assert x.max() == 255 and x.min() == 0
    assert y[:4].tolist() == {"mnist": [5, 0, 4, 1], "fashion-mnist": [9, 0, 0, 3]}[name]


@pytest.mark.skipif(not REAL_DATA, reason="FASTNN_DATA is not set")
def test_real_data_through_the_cache(tmp_path, monkeypatch):
    (x, _), _ = datasets.load_mnist(download=False)
    monkeypatch.setenv("FASTNN_CACHE", str(tmp_path))
    for name in datasets._FILES["mnist"]:
        path = os.path.join(REAL_DATA, "mnist", name)
        path = path if os.path.exists(path) else path + ".gz"
        datasets._keep(datasets.read_idx(path), "mnist", name)
    monkeypatch.delenv("FASTNN_DATA")
    (again, _), _ = datasets.load_mnist(download=False)
    assert np.array_equal(x, again)


def test_known_files():
    for files in datasets._FILES.values():
        assert {shape[0] for shape, _ in files.values()} == {60000, 10000}
        assert all(len(sha256) == 64 and int(sha256, 16) for _, sha256 in files.values())
    assert datasets.MIRRORS.keys() == datasets._FILES.keys()


def test_import_is_cheap():
    code = (
        "import sys, fastnn.datasets as d\n"
        "heavy = {'pooch', 'requests', 'sklearn', 'scipy', 'tempfile', 'gzip', 'urllib.request'}\n"
        "import numpy; print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert out.stdout.strip() == "[]"


# ------------------------------------------------------------------------------ digits


def test_load_digits():
    bundled = pytest.importorskip("sklearn.datasets").load_digits()
    (x, y), (x_test, y_test) = datasets.load_digits()
    assert x.shape == (1438, 8, 8) and x_test.shape == (359, 8, 8)
    assert x.dtype == x_test.dtype == np.uint8 and y.dtype == y_test.dtype == np.int32
    assert x.min() == 0 and x.max() == 255
    every = {(image.tobytes(), label) for image, label in zip(x, y, strict=True)}
    every |= {(image.tobytes(), label) for image, label in zip(x_test, y_test, strict=True)}
    want = np.rint(bundled.images / 16 * 255).astype(np.uint8)
    assert every == {(i.tobytes(), t) for i, t in zip(want, bundled.target, strict=True)}
    share = np.bincount(y_test) - np.bincount(bundled.target) * (359 / 1797)
    assert np.abs(share).max() < 1
    again = datasets.load_digits()
    assert np.array_equal(again[0][0], x) and np.array_equal(again[1][1], y_test)
    other = datasets.load_digits(test_size=100, seed=1)
    assert len(other[1][0]) == 100
    with pytest.raises(ValueError, match="test_size"):
        datasets.load_digits(test_size=2.0)
    with pytest.raises(TypeError, match="seed"):
        datasets.load_digits(seed="x")


def test_load_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        datasets.load_digits()


# ------------------------------------------------------------------------------ split


@settings(max_examples=100, deadline=None)
@given(
    n=st.integers(2, 300),
    classes=st.integers(1, 12),
    share=st.floats(0, 1, exclude_min=True, exclude_max=True),
    seed=st.integers(0, 2**64),
)
def test_split_partitions_the_rows(n, classes, share, seed):
    x = np.arange(2 * n).reshape(n, 2)
    y = np.arange(n) % min(classes, n // 2)
    for stratify in (False, True, y.tolist()):
        parts = datasets.train_test_split(x, y, test_size=share, seed=seed, stratify=stratify)
        x_train, x_test, y_train, y_test = parts
        assert len(x_test) == min(max(round(n * share), 1), n - 1)
        assert sorted(np.concatenate([x_train, x_test])[:, 0].tolist()) == x[:, 0].tolist()
        for a, b in ((x_train, y_train), (x_test, y_test)):
            assert np.array_equal(y[a[:, 0] // 2], b)
        if stratify is not False:
            want = np.bincount(y) * len(y_test) / n
            assert np.abs(np.bincount(y_test, minlength=len(want)) - want).max() < 1
        again = datasets.train_test_split(x, y, test_size=share, seed=seed, stratify=stratify)
        assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_split_shuffles():
    x = np.arange(1000)
    y = np.repeat(np.arange(10), 100)
    for stratify in (False, True):
        _, test, _, labels = datasets.train_test_split(x, y, seed=0, stratify=stratify)
        assert (np.diff(test) < 0).any() and (np.diff(labels) < 0).any()
        _, other, _, _ = datasets.train_test_split(x, y, seed=1, stratify=stratify)
        assert set(test.tolist()) != set(other.tolist())
    assert not np.array_equal(
        datasets.train_test_split(x)[0], datasets.train_test_split(x)[0]
    )  # no seed: 1 in 1000! to fail


def test_split_of_other_things():
    a, b = datasets.train_test_split([1.5, 2.5, 3.5, 4.5], seed=0, test_size=1)
    assert len(a) == 3 and len(b) == 1
    parts = datasets.train_test_split([1, 2], ["a", "b"], np.eye(2), seed=0)
    assert [part.shape for part in parts] == [(1,), (1,), (1,), (1,), (1, 2), (1, 2)]
    words = np.array(["cat", "dog"] * 10)
    _, test = datasets.train_test_split(words, test_size=np.float32(0.5), stratify=np.True_)
    assert sorted(test.tolist()) == ["cat"] * 5 + ["dog"] * 5
    x = np.arange(8, dtype=">i4")[::-1]
    x.flags.writeable = False
    a, _ = datasets.train_test_split(x, seed=np.int64(3), test_size=np.uint8(2))
    assert a.dtype == x.dtype and len(a) == 6 and a.flags.writeable
    assert x.tolist() == list(range(8))[::-1]


TEN = np.arange(10)
BAD_SPLITS = [
    ((), {}, ValueError, "arrays"),
    ((5,), {}, ValueError, "array 0"),
    ((None,), {}, ValueError, "array 0"),
    (("text",), {}, ValueError, "array 0"),
    (([[1], [2, 3]],), {}, ValueError, "array 0"),
    (([],), {}, ValueError, "array 0"),
    (([1],), {}, ValueError, "array 0"),
    ((TEN, TEN[:9]), {}, ValueError, "array 1"),
    ((TEN, 3), {}, ValueError, "array 1"),
    ((TEN,), {"test_size": 0}, ValueError, "test_size"),
    ((TEN,), {"test_size": 10}, ValueError, "test_size"),
    ((TEN,), {"test_size": -1}, ValueError, "test_size"),
    ((TEN,), {"test_size": 2**70}, ValueError, "test_size"),
    ((TEN,), {"test_size": 0.0}, ValueError, "test_size"),
    ((TEN,), {"test_size": 1.0}, ValueError, "test_size"),
    ((TEN,), {"test_size": -0.1}, ValueError, "test_size"),
    ((TEN,), {"test_size": float("nan")}, ValueError, "test_size"),
    ((TEN,), {"test_size": float("inf")}, ValueError, "test_size"),
    ((TEN,), {"test_size": True}, TypeError, "test_size"),
    ((TEN,), {"test_size": None}, TypeError, "test_size"),
    ((TEN,), {"test_size": "0.2"}, TypeError, "test_size"),
    ((TEN,), {"test_size": [0.2]}, TypeError, "test_size"),
    ((TEN,), {"seed": -1}, ValueError, "seed"),
    ((TEN,), {"seed": 1.0}, TypeError, "seed"),
    ((TEN,), {"seed": "1"}, TypeError, "seed"),
    ((TEN,), {"seed": True}, TypeError, "seed"),
    ((TEN,), {"seed": [1]}, TypeError, "seed"),
    ((TEN,), {"stratify": True}, ValueError, "stratify"),
    ((TEN,), {"stratify": None}, ValueError, "stratify"),
    ((TEN,), {"stratify": 1}, ValueError, "stratify"),
    ((TEN,), {"stratify": TEN[:4] * 0}, ValueError, "stratify"),
    ((TEN,), {"stratify": np.zeros((10, 2), int)}, ValueError, "stratify"),
    ((TEN,), {"stratify": np.zeros(10)}, TypeError, "stratify"),
    ((TEN,), {"stratify": [None] * 10}, TypeError, "stratify"),
    ((TEN, np.eye(10)), {"stratify": True}, TypeError, "stratify"),
]


@pytest.mark.parametrize(("arrays", "options", "error", "name"), BAD_SPLITS)
def test_bad_splits(arrays, options, error, name):
    with pytest.raises(error, match=f"^{name}:"):
        datasets.train_test_split(*arrays, **options)


# ------------------------------------------------------------------------------ Standardize


@pytest.mark.parametrize("axis", [0, None, (0, 1), (0, 2), (2, 0), (0, 1, 2), np.int64(0)])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f8", "i4", "u2", "i1"])
def test_standardize_equals_numpy(axis, dtype):
    rng = np.random.default_rng(5)
    x = rng.normal(3, 20, (700, 20, 11)).clip(0 if dtype == "u2" else -100, 100).astype(dtype)
    exact = x.astype(np.float64)
    mean, std = exact.mean(axis, keepdims=True), exact.std(axis, keepdims=True)
    copy = x.copy()
    scale = datasets.Standardize(axis)
    got = scale.fit_transform(x)
    assert got.dtype == np.float32 and got.shape == x.shape
    np.testing.assert_allclose(got, (exact - mean) / std, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(scale.inverse_transform(got), exact, rtol=1e-5, atol=1e-4)
    assert scale.mean.dtype == scale.std.dtype == np.float64
    assert scale.mean.shape == (() if axis is None else mean.shape[1:])
    np.testing.assert_allclose(np.squeeze(scale.std), np.squeeze(std), rtol=1e-12)
    assert np.array_equal(x, copy)
    assert np.array_equal(scale.transform(x[::-1])[::-1], got)
    assert np.array_equal(scale.transform(np.asfortranarray(x)), got)
    assert scale.transform(x[:0]).shape == (0, 20, 11)


def test_standardize_takes_uint8_for_images():
    x = np.random.default_rng(0).integers(0, 256, (500, 8, 8), dtype=np.uint8)
    pixels = x * np.float32(1 / 255)
    for axis in (0, None):
        a, b = datasets.Standardize(axis).fit(x), datasets.Standardize(axis).fit(pixels)
        np.testing.assert_allclose(a.mean, b.mean, rtol=1e-6)
        np.testing.assert_allclose(a.transform(x), b.transform(pixels), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(a.inverse_transform(a.transform(x)), pixels, atol=1e-6)


def test_standardize_without_variance():
    x = np.full((1000, 3), 0.1)
    x[:, 1] = np.arange(1000)
    x[:, 2] = -1e-30
    scale = datasets.Standardize().fit(x)
    got = scale.transform(x)
    assert (got[:, [0, 2]] == 0).all() and abs(got[:, 1].std() - 1) < 1e-6
    assert scale.std[[0, 2]].tolist() == [1, 1]
    assert scale.transform([[0.2, 0, 0]])[0, 0] == np.float32(0.2 - 0.1)
    black = np.full((4, 2), 7, np.uint8)
    assert (datasets.Standardize().fit_transform(black) == 0).all()
    assert datasets.Standardize(None).fit([[5.0]]).transform([[6.0]]) == 1


def test_standardize_does_not_cancel():
    x = np.random.default_rng(0).normal([1e9, -1e9], 1, (50000, 2))
    x[0] = [-1e9, 1e9]  # the row that deviations are taken from first
    got = datasets.Standardize().fit(x)
    np.testing.assert_allclose(got.std, x.std(0), rtol=1e-9)
    x = x[1:]
    got = datasets.Standardize().fit(x)
    np.testing.assert_allclose(got.std, 1, rtol=0.02)


def test_standardize_wide_rows_and_no_features():
    x = np.random.default_rng(0).normal(size=(3, 200_000)).astype(np.float32)
    np.testing.assert_allclose(datasets.Standardize().fit_transform(x).std(0), 1, rtol=1e-4)
    assert datasets.Standardize().fit_transform(np.zeros((3, 0))).shape == (3, 0)
    assert repr(datasets.Standardize((0, 1))) == "Standardize(axis=(0, 1))"


def test_standardize_memory():
    x = np.zeros((16 * MIB // 784, 784), np.uint8)
    scale = datasets.Standardize()
    with peak_memory(4 * MIB):
        scale.fit(x)
    with peak_memory(4 * x.size + x.size + 4 * MIB):
        scale.transform(x)


@pytest.mark.parametrize(
    ("axis", "error"),
    [
        (1, ValueError),
        (-1, ValueError),
        ((), ValueError),
        ((1, 2), ValueError),
        ((0, 0), ValueError),
        ((0, -1), ValueError),
        (0.0, TypeError),
        ("0", TypeError),
        (True, TypeError),
        ([0, 1], TypeError),
        ((0, 1.0), TypeError),
    ],
)
def test_standardize_bad_axis(axis, error):
    with pytest.raises(error, match="axis"):
        datasets.Standardize(axis)


BAD_NUMBERS = [
    (None, TypeError),
    ("text", TypeError),
    (["1", "2"], TypeError),
    ([1j, 2], TypeError),
    ([None, 1.0], TypeError),
    (np.array(["2020-01-01"], "M8[D]"), TypeError),
    (3.0, ValueError),
    ([[1.0], [1.0, 2.0]], ValueError),
    ([1.0, float("nan")], ValueError),
    ([1.0, float("inf")], ValueError),
    (np.array([1, -np.inf], np.float16), ValueError),
    ([1e200, -1e200], ValueError),
]


@pytest.mark.parametrize(("x", "error"), BAD_NUMBERS)
def test_standardize_bad_data(x, error):
    fitted = datasets.Standardize().fit([1.0, 2.0])
    mean = fitted.mean
    for method in (fitted.fit, fitted.transform, fitted.fit_transform, fitted.inverse_transform):
        with pytest.raises(error, match=r"^x:"):
            method(x)
    assert fitted.mean is mean


def test_standardize_misuse():
    scale = datasets.Standardize()
    for method in (scale.transform, scale.inverse_transform):
        with pytest.raises(ValueError, match="call fit first"):
            method([1.0])
    with pytest.raises(ValueError, match="at least one"):
        scale.fit(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="at least one"):
        datasets.Standardize(None).fit(np.zeros((3, 0)))
    with pytest.raises(ValueError, match="axis 2"):
        datasets.Standardize((0, 2)).fit(np.zeros((3, 4)))
    scale.fit(np.eye(3))
    for x in (np.zeros((2, 4)), np.zeros(3), np.zeros((2, 3, 1)), np.zeros((2, 1))):
        with pytest.raises(ValueError, match=r"^x: .*\(3,\)"):
            scale.transform(x)
    with pytest.raises(TypeError, match="uint8"):
        scale.inverse_transform(np.zeros((2, 3), np.uint8))
    channels = datasets.Standardize((0, 1, 2)).fit(np.random.rand(4, 5, 5, 3))
    assert channels.transform(np.zeros((1, 9, 7, 3))).shape == (1, 9, 7, 3)
    with pytest.raises(ValueError, match=r"^x:"):
        channels.transform(np.zeros((1, 5, 5, 2)))


# ------------------------------------------------------------------------------ one_hot


@pytest.mark.parametrize("dtype", ["u1", "i1", "i4", ">i4", "i8", "u8"])
@pytest.mark.parametrize("classes", [None, 4, 7, np.int32(5)])
def test_one_hot(dtype, classes):
    labels = np.array([3, 0, 1, 3, 2], dtype)
    got = datasets.one_hot(labels[::-1], classes)
    assert got.dtype == np.float32 and got.flags.c_contiguous
    assert np.array_equal(got, np.eye(classes or 4, dtype=np.float32)[labels[::-1].astype(int)])


def test_one_hot_of_nothing():
    assert datasets.one_hot(np.zeros(0, int), 3).shape == (0, 3)


BAD_LABELS = [
    ([0, -1], None, ValueError, "labels"),
    ([0, -1], 3, ValueError, "labels"),
    ([0, 3], 3, ValueError, "labels"),
    ([0, 2**40], None, ValueError, "labels"),
    (np.array([2**64 - 1], np.uint64), None, ValueError, "labels"),
    (np.array([2**64 - 1], np.uint64), 3, ValueError, "labels"),
    (np.zeros(0, int), None, ValueError, "labels"),
    (3, None, ValueError, "labels"),
    ([[0], [1]], None, ValueError, "labels"),
    ([[0], [1, 2]], None, ValueError, "labels"),
    ([0.0, 1.0], None, TypeError, "labels"),
    ([0.0, float("nan")], 2, TypeError, "labels"),
    (["a"], None, TypeError, "labels"),
    (None, None, TypeError, "labels"),
    ([2**70], None, TypeError, "labels"),
    ([0], 0, ValueError, "classes"),
    ([0], -1, ValueError, "classes"),
    ([0], 2**40, ValueError, "classes"),
    ([0], 2**70, ValueError, "classes"),
    (np.zeros(2**16, int), 2**31 - 1, ValueError, "classes"),
    ([0], 2.0, TypeError, "classes"),
    ([0], "2", TypeError, "classes"),
    ([0], True, TypeError, "classes"),
]


@pytest.mark.parametrize(("labels", "classes", "error", "name"), BAD_LABELS)
def test_one_hot_bad_input(labels, classes, error, name):
    with pytest.raises(error, match=f"^{name}:"):
        datasets.one_hot(labels, classes)


def test_every_public_name_is_there():
    assert all(hasattr(datasets, name) for name in datasets.__all__)
    assert issubclass(datasets.DataError, ValueError)

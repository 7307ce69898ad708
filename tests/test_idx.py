"""Tests of the reader of IDX files: every type, hostile files, memory, mutations.

FASTNN_FUZZ sets the number of mutated inputs.
"""

import contextlib
import gzip
import math
import os
import random
import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from fastnn import datasets
from fastnn.datasets.idx import _BLOCK

FUZZ = int(os.environ.get("FASTNN_FUZZ", "6000"))
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


@pytest.mark.parametrize("size", [_BLOCK - 16, 2 * _BLOCK + 1])
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

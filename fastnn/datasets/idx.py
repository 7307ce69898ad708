"""Owns the strict reader of IDX files, plain or gzip-compressed, from a path or from memory.

Which files are known, by shape and checksum, is left to ``images``.
"""

from __future__ import annotations

import itertools
import math
import os
import stat
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from fastnn.checks import Array

__all__ = ["DataError", "read_idx"]

_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_DIMS = 32  # what every NumPy supports
_GZIP = b"\x1f\x8b"
_MAX_RATIO = 1032  # deflate's best: a match of 258 bytes in two bits
READ = 1 << 16
"""Compressed bytes that are read at once."""
_BLOCK = 1 << 20


class DataError(ValueError):
    """A data file that is missing, damaged or not what it should be; the message names it.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.datasets.read_idx(fnn.__file__)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    fastnn.datasets.idx.DataError: ...__init__.py: not an IDX file: ...
    """


class Known(NamedTuple):
    """What a file must hold: its shape, and a check of array and sha256 that raises DataError."""

    shape: tuple[int, ...]
    check: Callable[[Array, str, str], None]


def read_idx(path: str | os.PathLike[str]) -> Array:
    """Read one IDX file, the format of MNIST, plain or gzip-compressed.

    Compression is recognised by content, not by name. The reader is strict: the file must hold
    exactly what its header declares. Memory follows what the file delivers, never what it claims.

    Parameters
    ----------
    path : str or os.PathLike
        A regular file. A gzip file must consist of one member.

    Returns
    -------
    ndarray
        Shape and type as declared (uint8, int8, int16, int32, float32 or float64), C-contiguous,
        writable, in native byte order.

    Raises
    ------
    DataError
        If the file is missing, unreadable, truncated, damaged, longer than declared or not IDX.
    TypeError
        If `path` is not a path.

    Examples
    --------
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "two-bytes.idx")
    >>> with open(path, "wb") as file:
    ...     _ = file.write(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
    >>> read_idx(path)
    array([7, 9], dtype=uint8)
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path: got {path!r:.60}, expected str or os.PathLike")
    return read(path)


def read(path: str | os.PathLike[str], known: Known | None = None) -> Array:
    """Read a file, which must be the known one."""
    try:
        # Asked before opening, for opening a FIFO would wait for its writer.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DataError(f"{path}: not a regular file; expected an IDX file")
        with open(path, "rb") as file:
            return parse(file, os.fstat(file.fileno()).st_size, str(path), known)
    except DataError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path that holds a NUL
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason}); expected an IDX file") from error


def parse(file: BinaryIO, size: int, name: str, known: Known | None) -> Array:
    """Return the array in `file`, `size` bytes long, which must be the known one."""
    packed = file.read(2) == _GZIP
    file.seek(0)
    chunks = _inflate(file, name) if packed else iter(lambda: file.read(_BLOCK), b"")
    try:
        return _parse_chunks(chunks, size * _MAX_RATIO if packed else size, name, known)
    except MemoryError as error:
        raise DataError(f"{name}: does not fit in memory") from error


def _parse_chunks(chunks: Iterator[bytes], most: int, name: str, known: Known | None) -> Array:
    head = bytearray()
    while len(head) < 4 or len(head) < 4 + 4 * head[3]:
        chunk = next(chunks, b"")
        if not chunk:
            what = f"ends inside its header, after {len(head)} bytes" if head else "is empty"
            raise DataError(f"{name}: {what}; expected an IDX file")
        head += chunk
        _check_magic(head, name)
    start = 4 + 4 * head[3]
    dtype = np.dtype(_IDX_TYPES[head[2]])
    dims = tuple(np.frombuffer(head, ">u4", head[3], 4).tolist())
    if known is not None and (dims != known.shape or dtype != np.uint8):
        raise DataError(
            f"{name}: holds {dtype.name} of shape {dims}; expected uint8 of shape {known.shape}"
        )
    declared = dtype.itemsize * math.prod(dims)
    # NumPy refuses a shape that overflows even if another dimension is 0.
    overflows = dtype.itemsize * math.prod(max(dim, 1) for dim in dims) >= 2**63
    if overflows or start + declared > most:
        raise DataError(
            f"{name}: its header declares {dtype.name} of shape {dims}, {start + declared} bytes; "
            f"the file can hold at most {most}"
        )

    hasher = None
    if known is not None:
        import hashlib

        hasher = hashlib.sha256(head[:start])
    payload = bytearray()
    for chunk in itertools.chain([bytes(head[start:])], chunks):
        if len(payload) + len(chunk) > declared:
            raise DataError(
                f"{name}: holds more than the {declared} bytes of {dtype.name} of shape {dims} "
                "that its header declares"
            )
        payload += chunk
        if hasher is not None:
            hasher.update(chunk)
    if len(payload) != declared:
        raise DataError(
            f"{name}: holds {len(payload)} bytes of data; its header declares {declared} "
            f"({dtype.name} of shape {dims})"
        )
    array: Array = np.frombuffer(payload, dtype).reshape(dims)
    if known is not None and hasher is not None:
        known.check(array, hasher.hexdigest(), name)
    if not dtype.isnative:
        array = array.byteswap(inplace=True).view(dtype.newbyteorder("="))
    return array


def _check_magic(head: bytearray, name: str) -> None:
    if len(head) < 4:
        return
    if head[:2] != b"\0\0" or head[2] not in _IDX_TYPES:
        raise DataError(
            f"{name}: not an IDX file: starts with {bytes(head[:4]).hex(' ')}; expected 00 00, "
            "then a type code (08, 09, 0b, 0c, 0d or 0e)"
        )
    if not 1 <= head[3] <= _MAX_DIMS:
        raise DataError(f"{name}: declares {head[3]} dimensions; expected 1 to {_MAX_DIMS}")


def _inflate(file: BinaryIO, name: str) -> Iterator[bytes]:
    """The content of a one-member gzip file, in chunks of at most ``_BLOCK`` bytes."""
    import zlib

    inflater = zlib.decompressobj(31)  # 31: a gzip wrapper, whose checksum and length zlib checks
    while not inflater.eof:
        block = inflater.unconsumed_tail or file.read(READ)
        try:
            chunk = inflater.decompress(block, _BLOCK)
        except zlib.error as error:
            raise DataError(f"{name}: damaged gzip data ({error})") from error
        if chunk:
            yield chunk
        elif not block and not inflater.eof:
            raise DataError(f"{name}: truncated: the gzip data ends early")
    if inflater.unused_data or file.read(1):
        raise DataError(f"{name}: holds more after its gzip data; expected a single gzip member")

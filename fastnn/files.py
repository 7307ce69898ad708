"""Owns files of named arrays, in the safetensors format: a strict reader, and atomic replacement.

Leaves what arrays and description mean to ``saving`` and ``checkpoint``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import stat
import zlib
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

import numpy as np

from fastnn.checks import Array

__all__ = [
    "DTYPES",
    "TRAINING",
    "FileFormatError",
    "TensorFile",
    "parse",
    "replace",
    "to_path",
    "write",
]

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "F32": np.dtype("<f4"),
    "I32": np.dtype("<i4"),
}
"""What the format calls the dtypes that we write."""

TRAINING = "training/"
"""How the names of arrays begin that belong to a training, not to the model."""

_FORMAT = "fastnn 1"
_METADATA = {"format", "model", "crc32"}
_ENTRY = {"dtype", "shape", "data_offsets"}
# A header is parsed into objects of up to 20 times its size, before anything can be verified.
_MAX_HEADER = 2**20
_MAX_AXES = 32  # what every NumPy supports
_MAX_SIZE = 2**63
_BLOCK = 2**20


class FileFormatError(ValueError):
    """A model file that is damaged or not one; the message names it, and what was expected.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.load(fnn.__file__)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    fastnn.files.FileFormatError: ...__init__.py: not a model file: ...
    """


class Entry(NamedTuple):
    """Where an array lies in the data, in bytes."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    stop: int


def to_path(path: str | os.PathLike[str]) -> str:
    """Return the path as a string.

    Raises
    ------
    TypeError
        If it is no path.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path: got {path!r:.60} ({type(path).__name__}), expected a path")
    return os.fsdecode(path)


def check_folder(path: str) -> None:
    """Check that the folder exists in which a file is to be written, before it takes long to fill.

    Raises
    ------
    FileNotFoundError
        If it does not.
    """
    folder = os.path.dirname(path) or os.curdir
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, "no such folder", folder)


class TensorFile:
    """A file of arrays, opened: its header is read and checked, its data not yet.

    Nothing in it is executed, and nothing larger than the file is allocated.

    Parameters
    ----------
    path : str or path
        Of a regular file.

    Attributes
    ----------
    entries : dict of str to Entry
        In the order of the data, which they cover without gap or overlap.
    model : str
        The description that ``write`` was given.

    Raises
    ------
    FileFormatError
        If the file is not as ``write`` makes it.
    OSError
        If it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = to_path(path)
        self._file = open(self.path, "rb", buffering=0, opener=_open)
        try:
            self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def fail(self, found: str) -> NoReturn:
        """Raise the error of this file."""
        raise FileFormatError(f"{self.path}: {found}")

    def _read_header(self) -> None:
        status = os.fstat(self._file.fileno())
        if not stat.S_ISREG(status.st_mode):
            self.fail("not a regular file, expected a model file")
        if status.st_size < 10:
            what = f"only {status.st_size} bytes" if status.st_size else "it is empty"
            self.fail(f"not a model file: {what}, expected at least 10 bytes")
        length = int.from_bytes(self._exactly(8), "little")
        most = min(_MAX_HEADER, status.st_size - 8)
        if not 2 <= length <= most:
            self.fail(
                f"not a model file: {status.st_size} bytes with a header of {length}, expected a "
                f"header of 2 to {most} bytes"
            )
        try:
            header = parse(self._exactly(length).decode("utf-8"))
        except (ValueError, RecursionError) as error:
            self.fail(f"its header is no JSON that fits ({str(error)[:100]})")
        if not isinstance(header, dict):
            self.fail("its header is no JSON object")
        self._read_metadata(header.pop("__metadata__", None))
        self._read_entries(header, status.st_size - 8 - length)

    def _read_metadata(self, metadata: object) -> None:
        if not isinstance(metadata, dict) or metadata.get("format") != _FORMAT:
            self.fail(
                f"its metadata do not say format {_FORMAT!r}: no model file, or one of another "
                "version of fastnn"
            )
        if set(metadata) != _METADATA or not all(isinstance(v, str) for v in metadata.values()):
            self.fail(f"its metadata have {sorted(metadata)}, expected strings {sorted(_METADATA)}")
        self.model: str = metadata["model"]
        self._crc32 = metadata["crc32"]

    def _read_entries(self, header: dict[str, Any], size: int) -> None:
        entries = {name: self._entry(name, entry) for name, entry in header.items()}
        order = sorted(entries, key=lambda name: (entries[name].start, entries[name].stop))
        self.entries = {name: entries[name] for name in order}
        end = 0
        for name, entry in self.entries.items():
            if entry.start != end:
                self.fail(f"array {name!r:.60} starts at {entry.start}, expected {end}")
            end = entry.stop
        if end != size:
            self.fail(f"holds {size} bytes of data, its header declares {end}")

    def _entry(self, name: str, entry: object) -> Entry:
        if not isinstance(entry, dict) or set(entry) != _ENTRY:
            self.fail(f"array {name!r:.60}: expected an object with {sorted(_ENTRY)}")
        kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(kind, str) or kind not in DTYPES:
            self.fail(f"array {name!r:.60}: got dtype {kind!r:.60}, expected one of {[*DTYPES]}")
        if not _sizes(shape) or len(shape) > _MAX_AXES:
            self.fail(f"array {name!r:.60}: got shape {shape!r:.60}, expected up to 32 sizes")
        if not _sizes(offsets) or len(offsets) != 2:
            self.fail(f"array {name!r:.60}: got offsets {offsets!r:.60}, expected two")
        nbytes = math.prod(shape) * DTYPES[kind].itemsize
        # NumPy refuses a shape that overflows even if another axis is 0.
        overflows = math.prod(max(axis, 1) for axis in shape) >= _MAX_SIZE // 8
        if overflows or offsets[1] - offsets[0] != nbytes:
            self.fail(
                f"array {name!r:.60}: got {offsets[1] - offsets[0]} bytes for shape {shape!r:.60}, "
                f"expected {nbytes}"
            )
        return Entry(DTYPES[kind], tuple(shape), offsets[0], offsets[1])

    def _exactly(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) != count:
            self.fail("ends early")
        return data

    def check(self, shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype[Any]) -> None:
        """Check that these arrays are in the file, with these shapes and this dtype.

        Raises
        ------
        FileFormatError
            If one is not.
        """
        for name, shape in shapes.items():
            entry = self.entries.get(name)
            found = "nothing" if entry is None else f"{entry.dtype} {entry.shape}"
            if found != f"{dtype} {shape}":
                self.fail(f"array {name!r:.60}: got {found}, expected {dtype} {shape}")

    def read(self, arrays: Mapping[str, Array]) -> None:
        """Read these arrays, C-contiguous and of the shapes and dtypes of ``entries``.

        Raises
        ------
        FileFormatError
            If the file's checksum is wrong.
        """
        crc = zlib.crc32(self.model.encode("utf-8", "surrogatepass"))
        spare = memoryview(bytearray(min(_BLOCK, os.fstat(self._file.fileno()).st_size)))
        for name, entry in self.entries.items():
            array = arrays.get(name)
            nbytes = entry.stop - entry.start
            flat = None if array is None else array.reshape(-1).view(np.uint8).data
            for start in range(0, nbytes, _BLOCK):
                count = min(_BLOCK, nbytes - start)
                block = spare[:count] if flat is None else flat[start : start + count]
                if self._file.readinto(block) != count:
                    self.fail("ends early")
                crc = zlib.crc32(block, crc)
        if f"{crc:08x}" != self._crc32:
            self.fail(f"damaged: its checksum is {crc:08x}, expected {self._crc32!r:.60}")


def _open(path: str, flags: int) -> int:
    """Open a file; a FIFO, too, without waiting for its writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def parse(text: str) -> Any:
    """Return the value of JSON in which no name occurs twice in an object.

    Raises
    ------
    ValueError, RecursionError
        If it is no such text, or too deep.
    """
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("a name occurs twice")
    return unique


def _sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < _MAX_SIZE for n in value)


def write(path: str | os.PathLike[str], arrays: Mapping[str, Array], model: str) -> None:
    """Replace a file by one with these arrays and this description, atomically.

    Parameters
    ----------
    path : str or path
    arrays : mapping of str to array
        Of a dtype in ``DTYPES``.
    model : str
        Describes the arrays; the checksum covers it, too.

    Raises
    ------
    TypeError
        If an array has another dtype.
    ValueError
        If the description is too long.
    OSError
        If the file cannot be written; then an older one is as it was.
    """
    codes = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": _FORMAT, "model": model, "crc32": ""}}
    start, crc, data = 0, zlib.crc32(model.encode()), []
    # The widest first, so that each starts at a multiple of its width.
    for name, array in sorted(arrays.items(), key=lambda item: -item[1].itemsize):
        if array.dtype not in codes:
            raise TypeError(f"array {name!r}: got {array.dtype}, expected one of {[*codes]}")
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        crc, stop = zlib.crc32(flat, crc), start + len(flat)
        header[name] = {
            "dtype": codes[array.dtype],
            "shape": array.shape,
            "data_offsets": [start, stop],
        }
        data.append(flat)
        start = stop
    header["__metadata__"]["crc32"] = f"{crc:08x}"
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _MAX_HEADER:
        raise ValueError(f"the model's description has {len(text)} bytes, more than {_MAX_HEADER}")
    replace(path, [len(text).to_bytes(8, "little"), text, *data])


def replace(path: str | os.PathLike[str], chunks: Iterable[bytes | memoryview]) -> None:
    """Put a new file at ``path`` in one instant: whoever reads finds the old one or the new one.

    It is written beside the old one, whose permissions it gets, and is on disk when this returns.

    Raises
    ------
    OSError
        If it cannot be written; then an older one is as it was.
    """
    target = os.path.realpath(to_path(path))
    folder, name = os.path.split(target)
    part = os.path.join(folder, f".{name[:120]}.{os.getpid()}-{os.urandom(4).hex()}.part")
    try:
        _sweep(folder, name)
        if os.path.lexists(target) and not os.path.isfile(target):
            raise OSError(errno.EEXIST, "something that is not a regular file is there")
        try:
            with open(part, "xb") as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                with contextlib.suppress(FileNotFoundError):
                    os.fchmod(file.fileno(), stat.S_IMODE(os.stat(target).st_mode))
                os.fsync(file.fileno())
            os.replace(part, target)
        except BaseException:  # Ctrl-C too
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise
        _sync(folder)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(
            error.errno, f"{reason}; nothing was written, an older file is as it was", str(path)
        ) from error


def _sync(folder: str) -> None:
    """Put a folder's names on disk, where the file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def _sweep(folder: str, name: str) -> None:
    """Remove what killed processes left of this file."""
    left = re.compile(re.escape(f".{name[:120]}.") + r"(\d+)-[0-9a-f]{8}\.part")
    for entry in os.scandir(folder):
        match = left.fullmatch(entry.name)
        if match:
            try:
                os.kill(int(match[1]), 0)
            except ProcessLookupError:
                with contextlib.suppress(OSError):  # another process may sweep, too
                    os.unlink(entry.path)
            except (OSError, OverflowError):
                pass

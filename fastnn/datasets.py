"""Data sets: reading IDX files, finding or downloading MNIST and its kin, splitting and scaling.

It owns the files, their checksums and the preparation of arrays before training; batches, shuffling
and the 1/255 scaling of uint8 pixels during training are the trainer's.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import numbers
import os
import stat
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastnn.checks import (
    PIXEL_SCALE,
    Array,
    check_integer,
    check_real,
    to_array,
    to_labels,
)

Split: TypeAlias = tuple[tuple[Array, Array], tuple[Array, Array]]

__all__ = [
    "DataError",
    "Standardize",
    "load_digits",
    "load_fashion_mnist",
    "load_mnist",
    "one_hot",
    "read_idx",
    "train_test_split",
]

MIRRORS: dict[str, tuple[str, ...]] = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    # Plain http is safe as the last resort: the payload's checksum decides, not the transport.
    "fashion-mnist": (
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
}
"""Folders to download from, in order, for each data set; each serves ``<file>.gz``."""

SYSTEM_FOLDER = "/usr/share/datasets"
"""Where Debian's ``dataset-*`` packages put their files."""

_IMAGES, _LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
# Shape, and sha256 of the decompressed file: the gzip wrappers differ from mirror to mirror.
_FILES: dict[str, dict[str, tuple[tuple[int, ...], str]]] = {
    "mnist": {
        f"train-{_IMAGES}": (
            (60000, 28, 28),
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        f"train-{_LABELS}": (
            (60000,),
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        f"t10k-{_IMAGES}": (
            (10000, 28, 28),
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        f"t10k-{_LABELS}": (
            (10000,),
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    },
    "fashion-mnist": {
        f"train-{_IMAGES}": (
            (60000, 28, 28),
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        f"train-{_LABELS}": (
            (60000,),
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        f"t10k-{_IMAGES}": (
            (10000, 28, 28),
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        f"t10k-{_LABELS}": (
            (10000,),
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    },
}

_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_DIMS = 32  # what every NumPy supports
_GZIP = b"\x1f\x8b"
_MAX_RATIO = 1032  # deflate's best: a match of 258 bytes in two bits
_MAX_CLASSES = 2**31 - 1  # labels are int32
_READ = 1 << 16
_BLOCK = 1 << 20
_TIMEOUT = (10, 30)  # seconds to connect, and between two reads
_STALE = 3600.0  # seconds after which another process's partial file is an orphan


class DataError(ValueError):
    """A data file that is missing, damaged or not what it should be; the message names it.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.datasets.read_idx(fnn.__file__)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    fastnn.datasets.DataError: ...__init__.py: not an IDX file: ...
    """


class _OtherSetError(DataError):
    """An intact file, but of another data set."""


# ------------------------------------------------------------------------------ IDX files


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
    return _read(path)


def _read(
    path: str | os.PathLike[str], shape: tuple[int, ...] | None = None, sha256: str | None = None
) -> Array:
    try:
        # Asked before opening, for opening a FIFO would wait for its writer.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DataError(f"{path}: not a regular file; expected an IDX file")
        with open(path, "rb") as file:
            return _parse(file, os.fstat(file.fileno()).st_size, str(path), shape, sha256)
    except DataError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path that holds a NUL
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason}); expected an IDX file") from error


def _parse(
    file: BinaryIO, size: int, name: str, shape: tuple[int, ...] | None, sha256: str | None
) -> Array:
    """The array in `file`, `size` bytes long; with `shape` and `sha256`, only that very array."""
    packed = file.read(2) == _GZIP
    file.seek(0)
    chunks = _inflate(file, name) if packed else iter(lambda: file.read(_BLOCK), b"")
    try:
        return _parse_chunks(chunks, size * _MAX_RATIO if packed else size, name, shape, sha256)
    except MemoryError as error:
        raise DataError(f"{name}: does not fit in memory") from error


def _parse_chunks(
    chunks: Iterator[bytes],
    most: int,
    name: str,
    shape: tuple[int, ...] | None,
    sha256: str | None,
) -> Array:
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
    if shape is not None and (dims != shape or dtype != np.uint8):
        raise DataError(
            f"{name}: holds {dtype.name} of shape {dims}; expected uint8 of shape {shape}"
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
    if sha256 is not None:
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
    if hasher is not None:
        _check_known(array, hasher.hexdigest(), sha256, name)
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


def _check_known(array: Array, digest: str, sha256: str | None, name: str) -> None:
    if digest == sha256:
        return
    for other, files in _FILES.items():
        if any(digest == known for _, known in files.values()):
            raise _OtherSetError(f"{name}: an intact file, but of {other}; expected {sha256}")
    found = f"sha256 of the decompressed file is {digest}; expected {sha256}"
    if array.ndim == 1 and (array > 9).any():
        row = int(np.argmax(array > 9))
        found = f"label {array[row]} in row {row}, expected 0 to 9; {found}"
    raise DataError(f"{name}: damaged: {found}")


def _inflate(file: BinaryIO, name: str) -> Iterator[bytes]:
    """The content of a one-member gzip file, in chunks of at most ``_BLOCK`` bytes."""
    import zlib

    inflater = zlib.decompressobj(31)  # 31: a gzip wrapper, whose checksum and length zlib checks
    while not inflater.eof:
        block = inflater.unconsumed_tail or file.read(_READ)
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


# ------------------------------------------------------------------------------ data sets


def load_mnist(*, download: bool = True) -> Split:
    """Load MNIST: 60,000 + 10,000 grey images of handwritten digits.

    Looks for each of the four IDX files, plain or ``.gz``, in ``$FASTNN_DATA/mnist`` and
    ``$FASTNN_DATA``, in ``/usr/share/datasets/mnist``, in the cache (``$FASTNN_CACHE``, else
    ``$XDG_CACHE_HOME/fastnn``, else ``~/.cache/fastnn``), then downloads it to the cache. The
    sha256 of the decompressed file is checked wherever it came from. A damaged file in
    ``$FASTNN_DATA`` is an error; elsewhere it is passed over with a warning.

    Parameters
    ----------
    download : bool
        False: use only files that are already here.

    Returns
    -------
    (x_train, y_train), (x_test, y_test)
        Images uint8 (N, 28, 28), which `fit` and `predict` scale by 1/255, and labels int32 (N,).
        For a network of ``input_shape=(784,)`` pass ``x.reshape(-1, 784)``; for one of
        ``(28, 28, 1)``, ``x[..., None]``: both are views.

    Raises
    ------
    DataError
        If a file is nowhere to be had (the message lists every place), or is damaged.

    Examples
    --------
    >>> (x, y), (x_test, y_test) = load_mnist()  # doctest: +SKIP
    >>> x.shape, x.dtype, y.shape, y.dtype  # doctest: +SKIP
    ((60000, 28, 28), dtype('uint8'), (60000,), dtype('int32'))
    """
    return _load("mnist", download)


def load_fashion_mnist(*, download: bool = True) -> Split:
    """Load Fashion-MNIST: 60,000 + 10,000 grey images of ten kinds of clothing.

    As `load_mnist`, with ``fashion-mnist`` as the name of the folder. The classes are T-shirt,
    trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot.

    Parameters
    ----------
    download : bool
        False: use only files that are already here.

    Returns
    -------
    (x_train, y_train), (x_test, y_test)
        Images uint8 (N, 28, 28) and labels int32 (N,).

    Raises
    ------
    DataError
        If a file is nowhere to be had (the message lists every place), or is damaged.

    Examples
    --------
    >>> (x, y), (x_test, y_test) = load_fashion_mnist()  # doctest: +SKIP
    """
    return _load("fashion-mnist", download)


def load_digits(*, test_size: float = 0.2, seed: int | None = 0) -> Split:
    """Load the 1,797 handwritten digits, 8x8 pixels, that scikit-learn carries: no download.

    Parameters
    ----------
    test_size : float or int
        Share, or number, of the images for the test set; see `train_test_split`.
    seed : int or None
        Of the split, which is stratified by label. None: another split at each call.

    Returns
    -------
    (x_train, y_train), (x_test, y_test)
        Images uint8 (N, 8, 8), scikit-learn's 0 to 16 stretched to 0 to 255, and labels int32 (N,).

    Raises
    ------
    ImportError
        If scikit-learn is not installed.
    TypeError, ValueError
        If `test_size` or `seed` is refused by `train_test_split`.

    Examples
    --------
    >>> (x, y), (x_test, y_test) = load_digits()
    >>> x.shape, x.dtype, y.dtype, len(x_test)
    ((1438, 8, 8), dtype('uint8'), dtype('int32'), 359)
    """
    try:
        from sklearn.datasets import load_digits as bundled
    except ImportError as error:
        raise ImportError(
            "load_digits() reads the digits that come with scikit-learn, which cannot be imported "
            f"({error}): pip install scikit-learn"
        ) from error
    digits = bundled()
    x = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    y = digits.target.astype(np.int32)
    x_train, x_test, y_train, y_test = train_test_split(
        x, y, test_size=test_size, seed=seed, stratify=True
    )
    return (x_train, y_train), (x_test, y_test)


def _load(name: str, download: bool) -> Split:
    if not isinstance(download, bool):
        raise TypeError(f"download: got {download!r:.60}, expected True or False")
    mirrors = list(MIRRORS[name]) if download else []
    x_train, y_train, x_test, y_test = (
        _find(name, f"{part}-{kind}", mirrors, download)
        for part in ("train", "t10k")
        for kind in (_IMAGES, _LABELS)
    )
    return (x_train, y_train.astype(np.int32)), (x_test, y_test.astype(np.int32))


def _find(name: str, file: str, mirrors: list[str], download: bool) -> Array:
    """One file of a data set, from the first place that has it."""
    shape, sha256 = _FILES[name][file]
    looked: list[str] = []
    for folder, tolerated in _folders(name, looked):
        missing = True
        for path in (os.path.join(folder, file), os.path.join(folder, file + ".gz")):
            try:
                os.lstat(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                pass  # the reader says what is wrong
            missing = False
            try:
                return _read(path, shape, sha256)
            except tolerated as error:
                looked.append(str(error))
                if not isinstance(error, _OtherSetError):
                    warnings.warn(f"{error}: passed over", stacklevel=5)
        if missing:
            found = f"no {file}, plain or .gz" if os.path.isdir(folder) else "no such folder"
            looked.append(f"{folder}: {found}")
    if download:
        array = _download(name, file, mirrors, looked)
        if array is not None:
            return array
    else:
        looked.append("the mirrors: not asked, for download=False")
    places = "\n  ".join(looked)
    raise DataError(
        f"{name}: {file} is nowhere to be had. Looked at:\n  {places}\n"
        f"Set FASTNN_DATA to a folder that holds {name}/{file}.gz; load_digits() needs no files."
    )


def _folders(name: str, looked: list[str]) -> Iterator[tuple[str, tuple[type[DataError], ...]]]:
    """The folders to search, each with the errors on which the search goes on."""
    data = os.environ.get("FASTNN_DATA")
    if data:
        data = os.path.abspath(os.path.expanduser(data))
        yield os.path.join(data, name), ()
        # The sets share their file names, so the folder itself can hold but one of them.
        yield data, (_OtherSetError,)
    else:
        looked.append("FASTNN_DATA: not set")
    yield os.path.join(SYSTEM_FOLDER, name), (DataError,)
    cache = _cache()
    if cache:
        yield os.path.join(cache, name), (DataError,)
    else:
        looked.append("the cache: no home folder; FASTNN_CACHE is not set")


def _cache() -> str | None:
    folder = os.environ.get("FASTNN_CACHE")
    if folder:
        return os.path.abspath(os.path.expanduser(folder))
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the XDG specification says to ignore it then
        base = os.path.expanduser("~/.cache")
    return os.path.join(base, "fastnn") if os.path.isabs(base) else None


class _Download(io.BytesIO):
    """What a mirror sends, up to a limit."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self.limit:
            raise ValueError(f"sends more than the {self.limit} bytes expected")
        return super().write(data)


def _download(name: str, file: str, mirrors: list[str], looked: list[str]) -> Array | None:
    """The file from the first of `mirrors` that serves it intact; that one moves to the front."""
    try:
        from pooch import HTTPDownloader
    except ImportError as error:
        looked.append(f"the mirrors: pooch cannot be imported ({error}): pip install pooch")
        return None
    shape, sha256 = _FILES[name][file]
    limit = math.prod(shape) + math.prod(shape) // 1000 + _READ  # gzip hardly ever grows data
    fetch = HTTPDownloader(
        progressbar=sys.stderr is not None and sys.stderr.isatty(),
        chunk_size=_READ,
        timeout=_TIMEOUT,
    )
    for mirror in tuple(mirrors):
        url = f"{mirror.rstrip('/')}/{file}.gz"
        body = _Download(limit)  # in memory, so nothing unchecked ever reaches the cache
        try:
            fetch(url, body, None)
            size = body.tell()
            body.seek(0)
            array = _parse(body, size, url, shape, sha256)
        except DataError as error:
            looked.append(str(error))
        except Exception as error:  # whatever ails one mirror, the next may be well
            looked.append(f"{url}: {type(error).__name__}: {error}")
        else:
            mirrors.remove(mirror)
            mirrors.insert(0, mirror)
            _keep(array, name, file)
            return array
    return None


def _keep(array: Array, name: str, file: str) -> None:
    """Write a uint8 `array` to the cache: decompressed, for it is read often, and atomically."""
    cache = _cache()
    if cache is None:
        return
    folder = os.path.join(cache, name)
    # No fsync: a file torn by a power cut fails its checksum and is downloaded again.
    part = os.path.join(folder, f".{file}.{os.getpid()}-{os.urandom(4).hex()}.part")
    try:
        os.makedirs(folder, exist_ok=True)
        _sweep(folder)
        try:
            with open(part, "xb") as out:
                out.write(bytes([0, 0, 8, array.ndim]))
                out.write(np.array(array.shape, ">u4").tobytes())
                out.write(array.data)
            os.replace(part, os.path.join(folder, file))
        except BaseException:  # Ctrl-C too
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise
    except OSError as error:
        warnings.warn(
            f"{name}: {file} cannot be kept in the cache {folder} ({error}); it will be "
            "downloaded again next time",
            stacklevel=7,
        )


def _sweep(folder: str) -> None:
    """Remove partial files that killed processes left."""
    import time

    for entry in os.scandir(folder):
        with contextlib.suppress(OSError):  # another process may sweep too
            if entry.name.endswith(".part") and entry.stat().st_mtime < time.time() - _STALE:
                os.unlink(entry.path)


# ------------------------------------------------------------------------------ preparation


def train_test_split(
    *arrays: ArrayLike,
    test_size: float = 0.25,
    seed: int | None = None,
    stratify: bool | ArrayLike = False,
) -> tuple[Array, ...]:
    """Shuffle rows and split them in two, in the same way for every array.

    Parameters
    ----------
    *arrays : array_like, shape (N, ...)
        One or more arrays of equal length, usually ``x, y``. N is at least 2.
    test_size : float or int
        A float strictly between 0 and 1 is the share of the rows in the second part, rounded to
        whole rows; an int is their number, 1 to N - 1. Neither part is ever empty.
    seed : int or None
        The same seed gives the same split. None: a different one at each call.
    stratify : bool or array_like, shape (N,)
        True: by the last of `arrays`, the labels; or the labels themselves. Each class's share in
        the test part is then exact to within one row.

    Returns
    -------
    tuple of ndarray
        ``x_train, x_test, y_train, y_test`` (scikit-learn's order): copies, types unchanged.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If there are no arrays, too few rows or unequal lengths, or `test_size`, `seed` or
        `stratify` is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.arange(20).reshape(10, 2), np.repeat([0, 1], 5)
    >>> x_train, x_test, y_train, y_test = train_test_split(
    ...     x, y, test_size=0.4, seed=0, stratify=True)
    >>> x_train.shape, np.bincount(y_test)
    ((6, 2), array([2, 2]))
    """
    if not arrays:
        raise ValueError("arrays: got none, expected at least one")
    rows = [_rows(f"array {i}", array) for i, array in enumerate(arrays)]
    n = len(rows[0])
    for i, array in enumerate(rows):
        if len(array) != n:
            raise ValueError(f"array {i}: got {len(array)} rows, expected {n} as in array 0")
    if n < 2:
        raise ValueError(f"array 0: got {n} rows, expected at least 2")
    n_test = _test_rows(test_size, n)
    random = np.random.default_rng(None if seed is None else check_integer("seed", seed, 0))
    order = random.permutation(n)
    if isinstance(stratify, (bool, np.bool_)):
        labels = rows[-1] if stratify else None
    else:
        labels = _rows("stratify", stratify)
    if labels is None:
        train, test = order[n_test:], order[:n_test]
    else:
        _check_classes(labels, n)
        # Every (n / n_test)-th row of the rows in order of class, from a random first one.
        order = order[np.argsort(labels[order], kind="stable")]
        chosen = np.zeros(n, bool)
        chosen[(np.arange(n_test) * n + random.integers(n)) // n_test] = True
        train, test = random.permutation(order[~chosen]), random.permutation(order[chosen])
    return tuple(array[part] for array in rows for part in (train, test))


def _rows(name: str, value: ArrayLike) -> Array:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{name}: cannot be made an array ({error})") from error
    if array.ndim == 0:
        raise ValueError(f"{name}: got {value!r:.60}, expected an array with rows")
    return array


def _test_rows(test_size: float, n: int) -> int:
    if isinstance(test_size, numbers.Integral):
        return check_integer("test_size", test_size, 1, n - 1)
    share = check_real("test_size", test_size, 0, 1, open_low=True, open_high=True)
    return min(max(round(n * share), 1), n - 1)


def _check_classes(labels: Array, n: int) -> None:
    if labels.dtype.kind not in "biuUS":
        raise TypeError(f"stratify: got {labels.dtype}, expected integer or string labels")
    if labels.shape != (n,):
        raise ValueError(f"stratify: got shape {labels.shape}, expected ({n},)")
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        label = classes[counts.argmin()]
        raise ValueError(f"stratify: got 1 row of class {label}, expected at least 2 of each")


class Standardize:
    """Shift and scale data to mean 0 and standard deviation 1, as learned from a training set.

    uint8 data are images, so they count as scaled by 1/255, as everywhere in fastnn. Statistics
    are taken in float64. A feature that never varies is shifted but not scaled.

    Parameters
    ----------
    axis : int, tuple of int or None
        The axes over which one mean and one deviation are taken. 0, the rows: each feature has
        its own. None: one for everything. (0, 1, 2): one per channel of images (N, H, W, C).

    Attributes
    ----------
    mean, std : ndarray, float64, or None before `fit`
        Without the row axis: shape ``x.shape[1:]``, with 1 for each further axis in `axis`;
        shape () for ``axis=None``.

    Raises
    ------
    TypeError, ValueError
        If `axis` is not None, 0 or a tuple of distinct axes that includes 0.

    Examples
    --------
    >>> import numpy as np
    >>> scale = Standardize()
    >>> scale.fit_transform(np.array([[0.0, 5.0], [2.0, 5.0]]))
    array([[-1.,  0.],
           [ 1.,  0.]], dtype=float32)
    >>> scale.transform([[1.0, 6.0]])
    array([[0., 1.]], dtype=float32)
    """

    def __init__(self, axis: int | tuple[int, ...] | None = 0) -> None:
        if axis is not None:
            axes = axis if isinstance(axis, tuple) else (axis,)
            axes = tuple(check_integer("axis", a, 0) for a in axes)
            if 0 not in axes or len(set(axes)) != len(axes):
                raise ValueError(f"axis: got {axis}, expected distinct axes with 0, the rows")
        self.axis = axis
        self.mean: NDArray[np.float64] | None = None
        self.std: NDArray[np.float64] | None = None

    def __repr__(self) -> str:
        return f"Standardize(axis={self.axis!r})"

    def fit(self, x: ArrayLike) -> Standardize:
        """Learn mean and standard deviation.

        Parameters
        ----------
        x : array_like, shape (N, ...)
            Finite numbers, N at least 1.

        Returns
        -------
        Standardize
            Itself.

        Raises
        ------
        TypeError
            If `x` does not hold real numbers.
        ValueError
            If `x` is empty, lacks an axis of `axis`, or holds a value that is not finite.

        Examples
        --------
        >>> Standardize(axis=None).fit([[1.0, 3.0]]).mean
        array(2.)
        """
        x = _numbers(x)
        if self.axis is None:
            axes = tuple(range(x.ndim))
        else:
            axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        if max(axes) >= x.ndim:
            raise ValueError(f"x: got shape {x.shape}, expected it to have axis {max(axes)}")
        count = math.prod(x.shape[a] for a in axes)
        if count == 0:
            raise ValueError(f"x: got shape {x.shape}, expected at least one value to average")

        # Deviations from the first row: exactly zero where nothing varies, and no cancellation.
        first = tuple(slice(0, 1) if a in axes else slice(None) for a in range(x.ndim))
        origin = _scaled(x[first])
        total = np.zeros_like(origin)
        square = np.zeros_like(origin)
        with np.errstate(over="ignore", invalid="ignore"):
            for rows in _row_blocks(x):
                total += (_scaled(x[rows]) - origin).sum(axis=axes, keepdims=True)
            centre = total / count
            for rows in _row_blocks(x):
                deviation = _scaled(x[rows]) - origin - centre
                square += np.square(deviation).sum(axis=axes, keepdims=True)
            mean, std = origin + centre, np.sqrt(square / count)
        if not (np.isfinite(mean).all() and np.isfinite(std).all()):
            raise ValueError(_not_finite(x))
        std[std == 0] = 1
        shape = () if self.axis is None else mean.shape[1:]
        self.mean, self.std = mean.reshape(shape), std.reshape(shape)
        return self

    def transform(self, x: ArrayLike) -> NDArray[np.float32]:
        """``(x - mean) / std``.

        Parameters
        ----------
        x : array_like, shape (M, ...)
            Finite numbers; rows shaped as those of `fit` (any shape for ``axis=None``).

        Returns
        -------
        ndarray
            float32, the shape of `x`; a new array.

        Raises
        ------
        TypeError
            If `x` does not hold real numbers.
        ValueError
            Before `fit`, for rows of another shape, or for a value that is not finite.

        Examples
        --------
        >>> Standardize(axis=None).fit([1.0, 3.0]).transform([4.0])
        array([2.], dtype=float32)
        """
        mean, std = self._fitted("transform")
        return _by_blocks(self._checked(x), lambda block: (block - mean) / std)

    def fit_transform(self, x: ArrayLike) -> NDArray[np.float32]:
        """``fit(x).transform(x)``.

        Parameters
        ----------
        x : array_like, shape (N, ...)
            As for `fit`.

        Returns
        -------
        ndarray
            As from `transform`.

        Raises
        ------
        TypeError, ValueError
            As `fit`.

        Examples
        --------
        >>> Standardize().fit_transform([1.0, 3.0])
        array([-1.,  1.], dtype=float32)
        """
        x = _numbers(x)
        return self.fit(x).transform(x)

    def inverse_transform(self, x: ArrayLike) -> NDArray[np.float32]:
        """``x * std + mean``: back to the units of `fit` (0 to 1 for uint8 images).

        Parameters
        ----------
        x : array_like, shape (M, ...)
            Standardized data, not uint8.

        Returns
        -------
        ndarray
            float32, the shape of `x`; a new array.

        Raises
        ------
        TypeError, ValueError
            As `transform`.

        Examples
        --------
        >>> Standardize().fit([1.0, 3.0]).inverse_transform([-1.0, 0.0])
        array([1., 2.], dtype=float32)
        """
        mean, std = self._fitted("inverse_transform")
        x = self._checked(x)
        if x.dtype == np.uint8:
            raise TypeError("x: got uint8, expected standardized data")
        return _by_blocks(x, lambda block: block * std + mean)

    def _fitted(self, method: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self.mean is None or self.std is None:
            raise ValueError(f"Standardize.{method}: nothing learned yet; call fit first")
        return self.mean, self.std

    def _checked(self, x: ArrayLike) -> Array:
        x = _numbers(x)
        if self.axis is not None:
            assert self.mean is not None
            fixed = self.mean.shape
            axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
            free = [a in axes for a in range(1, x.ndim)]
            same = x.ndim == len(fixed) + 1 and all(
                f or a == b for f, a, b in zip(free, x.shape[1:], fixed, strict=True)
            )
            if not same:
                raise ValueError(f"x: got rows of shape {x.shape[1:]}, expected {fixed} as in fit")
        return x


def _numbers(x: ArrayLike) -> Array:
    array = to_array("x", x)
    if array.ndim == 0:
        raise ValueError(f"x: got {array}, expected an array with rows")
    return array


def _row_blocks(x: Array) -> Iterator[slice]:
    """Slices of rows of about 64 Ki values, so that float64 temporaries stay in the cache."""
    step = max(1, _READ // max(1, math.prod(x.shape[1:])))
    return (slice(i, i + step) for i in range(0, len(x), step))


def _scaled(block: Array) -> NDArray[np.float64]:
    """float64, by the rule for all of fastnn: uint8 is an image."""
    return block * PIXEL_SCALE if block.dtype == np.uint8 else block.astype(np.float64)


def _by_blocks(
    x: Array, formula: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray[np.float32]:
    out = np.empty(x.shape, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for rows in _row_blocks(x):
            out[rows] = formula(_scaled(x[rows]))
    if not np.isfinite(out).all():
        raise ValueError(_not_finite(x))
    return out


def _not_finite(x: Array) -> str:
    bad = ~np.isfinite(x)
    if bad.any():
        index = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), x.shape))
        return f"x: got {x[index]} at {index}, expected finite numbers"
    return f"x: got values up to {np.abs(x).max()}, too large to standardize in float32"


def one_hot(labels: ArrayLike, classes: int | None = None) -> NDArray[np.float32]:
    """Turn class labels into rows with a single 1.

    Parameters
    ----------
    labels : array_like, shape (N,)
        Integers from 0 to ``classes - 1``.
    classes : int or None
        The number of columns C. None: one more than the largest label.

    Returns
    -------
    ndarray, float32, shape (N, C)
        ``out[i, labels[i]] == 1``, and 0 elsewhere.

    Raises
    ------
    TypeError
        If `labels` are not integers, or `classes` is neither an int nor None.
    ValueError
        If `labels` is not 1-D, a label is out of range, there are no labels to infer `classes`
        from, or the result would not fit in memory.

    Examples
    --------
    >>> one_hot([0, 2])
    array([[1., 0., 0.],
           [0., 0., 1.]], dtype=float32)
    """
    array = to_array("labels", labels)
    if array.ndim != 1:
        raise ValueError(f"labels: got shape {array.shape}, expected (N,)")
    if classes is None:
        array = to_labels("labels", array, _MAX_CLASSES)
        if not array.size:
            raise ValueError("labels: got none, expected at least one, or classes=")
        classes = int(array.max()) + 1
    else:
        classes = check_integer("classes", classes, 1, _MAX_CLASSES)
        array = to_labels("labels", array, classes)
    try:
        out = np.zeros((len(array), classes), np.float32)
    except (MemoryError, ValueError) as error:  # ValueError: 2**63 bytes or more
        raise ValueError(
            f"classes: got {classes}, and {len(array)} rows of so many do not fit in memory"
        ) from error
    out[np.arange(len(array)), array] = 1
    return out

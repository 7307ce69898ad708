"""Owns the sets of images: which files they consist of, where these are found or downloaded.

The bytes are left to ``idx``, files that replace others to ``fastnn.files``.
"""

from __future__ import annotations

import io
import math
import os
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from fastnn.checks import Array, check_flag, users_frame
from fastnn.datasets.idx import READ, DataError, Known, parse, read
from fastnn.datasets.split import train_test_split
from fastnn.files import replace

Split: TypeAlias = tuple[tuple[Array, Array], tuple[Array, Array]]

__all__ = ["load_digits", "load_fashion_mnist", "load_mnist"]

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
_TIMEOUT = (10, 30)  # seconds to connect, and between two reads


class _OtherSetError(DataError):
    """An intact file, but of another data set."""


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
    check_flag("download", download)
    mirrors = list(MIRRORS[name]) if download else []
    x_train, y_train, x_test, y_test = (
        _find(name, f"{part}-{kind}", mirrors, download)
        for part in ("train", "t10k")
        for kind in (_IMAGES, _LABELS)
    )
    return (x_train, y_train.astype(np.int32)), (x_test, y_test.astype(np.int32))


def _known(name: str, file: str) -> Known:
    shape, sha256 = _FILES[name][file]
    return Known(shape, partial(_check, sha256))


def _check(sha256: str, array: Array, digest: str, name: str) -> None:
    """Raise unless this is the file of that checksum."""
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


def _find(name: str, file: str, mirrors: list[str], download: bool) -> Array:
    """One file of a data set, from the first place that has it."""
    known, looked = _known(name, file), list[str]()
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
                return read(path, known)
            except tolerated as error:
                looked.append(str(error))
                if not isinstance(error, _OtherSetError):
                    warnings.warn(f"{error}: passed over", stacklevel=users_frame())
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
    known = _known(name, file)
    limit = math.prod(known.shape) * 1001 // 1000 + READ  # gzip hardly ever grows data
    fetch = HTTPDownloader(
        progressbar=sys.stderr is not None and sys.stderr.isatty(),
        chunk_size=READ,
        timeout=_TIMEOUT,
    )
    for mirror in tuple(mirrors):
        url = f"{mirror.rstrip('/')}/{file}.gz"
        body = _Download(limit)  # in memory, so nothing unchecked ever reaches the cache
        try:
            fetch(url, body, None)
            size = body.tell()
            body.seek(0)
            array = parse(body, size, url, known)
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
    """Write a uint8 `array` to the cache, decompressed, for it is read often."""
    cache = _cache()
    if cache is None:
        return
    folder = os.path.join(cache, name)
    shape = np.array(array.shape, ">u4").tobytes()
    try:
        os.makedirs(folder, exist_ok=True)
        replace(os.path.join(folder, file), [bytes([0, 0, 8, array.ndim]), shape, array.data])
    except OSError as error:
        warnings.warn(
            f"{name}: {file} cannot be kept in the cache {folder} ({error}); it will be "
            "downloaded again next time",
            stacklevel=users_frame(),
        )

"""Tests of the search for data sets, of downloads, and of the real files.

FASTNN_DATA adds the real MNIST files to the run; FASTNN_INTERRUPTS sets the number of interrupted
downloads.
"""

import contextlib
import gzip
import hashlib
import http.server
import os
import random
import socket
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
from conftest import ctrl_c_after
from test_idx import HUGE, MIB, bomb, header, idx, peak_memory

from fastnn import datasets
from fastnn.datasets import images

REAL_DATA = os.environ.get("FASTNN_DATA")
INTERRUPTS = int(os.environ.get("FASTNN_INTERRUPTS", "10"))


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
    monkeypatch.setattr(images, "_FILES", table)
    monkeypatch.setattr(images, "SYSTEM_FOLDER", str(tmp_path / "system"))
    monkeypatch.setattr(images, "MIRRORS", {"mnist": (), "fashion-mnist": ()})
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
    assert images._cache() == str(home / "cache")
    monkeypatch.delenv("FASTNN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "xdg"))
    assert images._cache() == str(home / "xdg/fastnn")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(home))
    assert images._cache() == str(home / ".cache/fastnn")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # a user without a home
    assert images._cache() is None
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
    monkeypatch.setitem(images.MIRRORS, name, mirrors)


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
    monkeypatch.setattr(images, "_TIMEOUT", (0.2, 0.2))
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
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    old, new = (folder / f".{IMAGES}.{pid}-00000000.part" for pid in (ended.pid, os.getpid()))
    old.write_bytes(b"")
    new.write_bytes(b"")
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
    for name in images._FILES["mnist"]:
        path = os.path.join(REAL_DATA, "mnist", name)
        path = path if os.path.exists(path) else path + ".gz"
        images._keep(datasets.read_idx(path), "mnist", name)
    monkeypatch.delenv("FASTNN_DATA")
    (again, _), _ = datasets.load_mnist(download=False)
    assert np.array_equal(x, again)


def test_known_files():
    for files in images._FILES.values():
        assert {shape[0] for shape, _ in files.values()} == {60000, 10000}
        assert all(len(sha256) == 64 and int(sha256, 16) for _, sha256 in files.values())
    assert images.MIRRORS.keys() == images._FILES.keys()


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


def test_every_public_name_is_there():
    assert all(hasattr(datasets, name) for name in datasets.__all__)
    assert issubclass(datasets.DataError, ValueError)

"""Tests of the benchmarks: each runs on something small, so that none of them rots.

Times are not looked at, only that there are some, and that what is compared was verified.
"""

import contextlib
import importlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastnn as fnn

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """The benchmarks lie beside the package and are not installed with it."""
    monkeypatch.syspath_prepend(str(ROOT))
    threads = fnn.get_num_threads()
    yield
    fnn.set_num_threads(threads)


@pytest.fixture
def rows():
    return importlib.import_module("bench.peers.rows")


compiler = pytest.mark.skipif(
    shutil.which(shlex.split(os.environ.get("CC", "cc"))[0]) is None, reason="no C compiler"
)


def test_import_time():
    times = importlib.import_module("bench.import_time").measure(2)
    assert len(times) == 2 and min(times) > 0


@compiler
def test_roofline(tmp_path, capsys):
    roofline = importlib.import_module("bench.roofline")
    out = tmp_path / "figures.json"
    roofline.main(["--seconds", "0.002", "--json", str(out)])
    figures = json.loads(out.read_text())
    assert set(figures["1"]) == {"fma", "L1", "L2", "L3", "memory"}
    assert all(value > 0 for row in figures.values() for value in row.values())
    assert "| 1 |" in capsys.readouterr().out


@compiler
def test_round_trips():
    roofline = importlib.import_module("bench.roofline")
    least, greatest = roofline.round_trips(0.002)
    assert 0 < least <= greatest if roofline.cores() > 1 else least == greatest == 0


def test_roofline_without_compiler(monkeypatch):
    roofline = importlib.import_module("bench.roofline")
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(RuntimeError, match="no-such-compiler"):
        roofline.library.__wrapped__()


def test_rows_describe_the_work(rows):
    row = rows.ROWS["small-24"]
    products = 784 * 128 + 128 * 64 + 64 * 10
    assert row.flops() == 2 * 24 * (3 * products - 784 * 128)
    assert row.traffic() == 4 * (3 * 784 * 128 + 4 * (128 * 64 + 64 * 10))
    assert [w.shape for w in row.weights()[:3]] == [(784, 128), (128,), (128, 64)]
    np.testing.assert_array_equal(row.weights()[0], row.weights()[0])
    gelu = rows.ROWS["gelu-64"]
    assert rows.Dropout(0.2) in gelu.layers
    assert rows.Dropout(0.2) not in gelu.without_dropout().layers
    pixels, labels = rows.pixels_and_labels("noise")
    x, y = rows.batches(pixels, labels, 24)
    assert x.shape == (170, 24, 784) and y.shape == (170, 24) and 0 < x.min() < x.max() <= 1
    assert (x.min(axis=1) < x.max(axis=1)).all()


@pytest.mark.skipif("FASTNN_DATA" not in os.environ, reason="FASTNN_DATA is not set")
def test_rows_on_mnist(rows):
    pixels, labels = rows.pixels_and_labels("mnist")
    (x, y), _ = fnn.datasets.load_mnist()
    np.testing.assert_array_equal(pixels.reshape(-1, 28, 28), x[: len(pixels)])
    np.testing.assert_array_equal(labels, y[: len(pixels)])
    inverted, same = rows.pixels_and_labels("inverted")
    np.testing.assert_array_equal(inverted, 255 - pixels)
    np.testing.assert_array_equal(same, labels)


def test_rows_count_useful_multiplications(rows):
    images = rows.ROWS["cnn-5"]
    shapes = [shape for _, shape in images.walk()]
    assert shapes[0] == (28, 28, 1)
    assert (1, 1, 256) in shapes
    forward = sum(rows.multiplications(*item)[0] for item in images.walk())
    sizes = [(28, 1, 16), (14, 16, 32), (7, 32, 64), (3, 64, 128), (1, 128, 256)]
    convolutions = sum((3 * n - 2) ** 2 * c * k for n, c, k in sizes)  # at either rim 2 of 3 taps
    assert forward == convolutions + 256 * 512 + 512 * 10
    assert rows.ROWS["lstm-128"].flops() == 3 * 2 * 64 * (28 * 156 * 512 + 1280) - (
        2 * 64 * 28 * 28 * 512
    )


def test_numpy_gradients_are_right(rows):
    """All are verified against each other; one of them against finite differences."""
    with_numpy = importlib.import_module("bench.peers.with_numpy")
    for name in ("relu", "sigmoid", "gelu"):
        row = rows.mlp("check", (5, 4, 3), name, 2)
        weights = [w.astype(np.float64) for w in row.weights()]
        x = np.random.default_rng(0).normal(size=(2, 5))
        d = np.random.default_rng(1).normal(size=(2, 3))
        _, saved = with_numpy.forward(row, weights, x, None)
        gradients = with_numpy.backward(row, weights, d.copy(), saved)
        for w, g in zip(weights, gradients, strict=True):
            w.flat[0] += 1e-6
            high = (with_numpy.forward(row, weights, x, None)[0] * d).sum()
            w.flat[0] -= 2e-6
            low = (with_numpy.forward(row, weights, x, None)[0] * d).sum()
            w.flat[0] += 1e-6
            assert g.flat[0] == pytest.approx((high - low) / 2e-6, rel=1e-4, abs=1e-7), name


@compiler
def test_peers_agree(tmp_path):
    """Every library that is installed gives fastnn's losses, in the processes of a real run."""
    out = tmp_path / "out.json"
    names = ["fastnn", "fastnn eager", "torch", "torch compiled", "jax", "numpy", "sklearn"]
    smoke = ["smoke-sgd", "smoke-adam", "smoke-predict"]
    others = ["smoke-cnn", "smoke-autoencoder", "smoke-rnn", "smoke-lstm", "smoke-gru"]
    options = "--threads 1 --rounds 1 --repeats 1 --seconds 0.002 --json"
    command = [sys.executable, "-m", "bench.peers", "--rows", ",".join(smoke + others)]
    run = subprocess.run(
        [*command, "--libs", ",".join(names), *options.split(), str(out)],
        cwd=ROOT,
        env={**os.environ, "TORCHDYNAMO_DISABLE": "1"},  # the compiled step's sums, uncompiled
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    figures = json.loads(out.read_text())
    for name, module in (("torch compiled", "torch"), ("jax", "jax"), ("sklearn", "sklearn")):
        installed = importlib.util.find_spec(module) is not None
        assert (figures["rows"]["smoke-sgd"]["cells"].get(name) is not None) == installed
    for row in smoke:
        assert figures["rows"][row]["ratio"] > 0
        assert f"| {row} |" in run.stdout
    assert figures["rows"]["smoke-adam"]["cells"].get("sklearn") is None
    for row in others:  # of layers that NumPy and scikit-learn lack
        cells = figures["rows"][row]["cells"]
        assert cells["fastnn"] > 0
        assert cells["numpy"] is None


def test_peers_refuse_wrong_losses():
    peers = importlib.import_module("bench.peers.__main__")

    class Fake:
        def __init__(self, label, answer):
            self.label, self.answer = label, answer

        def ask(self, *request):
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

    right, close = Fake("right", [2.0, 1.0]), Fake("close", [2.00001, 1.0])
    wrong, broken = Fake("wrong", [2.0, 1.001]), Fake("broken", peers.WorkerError("it died"))
    nan, without = Fake("nan", [2.0, float("nan")]), Fake("without", None)
    problems = []
    agreed = peers.verified([right, close, wrong, broken, nan, without], "small-24", problems)
    assert agreed == [right, close]
    assert [next(word for word in ("wrong", "died", "nan") if word in p) for p in problems] == [
        "wrong",
        "died",
        "nan",
    ]


def test_a_worker_that_dies_is_reported(tmp_path):
    peers = importlib.import_module("bench.peers.__main__")
    process = peers.Process("numpy", 1, "", tmp_path)  # a folder without any data
    try:
        with pytest.raises(peers.WorkerError, match=r"numpy, 1 thread: .*\n(.*\n)*.*pixels.npy"):
            process.receive()
        process.child.kill()
        with pytest.raises(peers.WorkerError, match="no answer to verify small-24"):
            process.ask("verify", "small-24")
    finally:
        process.close()


@pytest.mark.usefixtures("compiled")
def test_train_step(tmp_path, capsys):
    train_step = importlib.import_module("bench.train_step")
    out = tmp_path / "out.json"
    nets = "smoke-sgd,smoke-adam,empty-linear,empty-dense"
    options = "--rounds 1 --seconds 0.002 --threads 1,2 --json"
    train_step.main(["--rows", nets, *options.split(), str(out)])
    figures = json.loads(out.read_text())
    assert len(figures) == 4 * (1 + 3 * 2)
    assert all(f["median"] > 0 for f in figures)
    assert "fused against reference" in capsys.readouterr().out


@pytest.mark.usefixtures("compiled")
def test_train_step_profile(capsys):
    train_step = importlib.import_module("bench.train_step")
    train_step.main(["--rows", "smoke-adam", "--profile", "--threads", "1"])
    printed = capsys.readouterr().out
    assert "adam_update" in printed and "GFLOP/s" in printed


@pytest.mark.parametrize("module", ["bench.peers.__main__", "bench.train_step"])
def test_unknown_rows_are_named(module, capsys):
    with contextlib.suppress(SystemExit):
        importlib.import_module(module).main(["--rows", "no-such-row"])
    assert "'no-such-row' is none of small-24" in capsys.readouterr().err


@pytest.mark.usefixtures("compiled")
def test_gemm(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    gemm = importlib.import_module("bench.gemm")
    gemm.main("--threads 1 --rounds 1 --repeats 1".split())
    printed = capsys.readouterr().out
    assert printed.count("×)") == 3 * len(gemm.shapes())
    assert "geometric mean" in printed


@pytest.mark.usefixtures("compiled")
def test_kernels():
    command = [sys.executable, "-m", "pytest", "bench/bench_kernels.py", "-k", "relu_forward"]
    run = subprocess.run(
        [*command, "--benchmark-enable", "--benchmark-max-time=0.01"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    assert "geometric mean of 2" in run.stdout


@pytest.mark.usefixtures("compiled")
def test_interrupts(capsys, monkeypatch):
    interrupts = importlib.import_module("bench.interrupts")
    options = ["--tries", "2", "--within", "0.02", "--rows"]
    monkeypatch.setattr(interrupts, "BAR", 60.0)
    assert interrupts.main([*options, "fit,fit-eager,predict,download"]) == 0
    printed = capsys.readouterr().out
    assert "| fit-eager | " in printed and "| download | " in printed
    monkeypatch.setattr(interrupts, "BAR", 0.0)
    assert interrupts.main([*options, "fit"]) == 1
    assert "later than 0 ms: fit" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="not noticed"):
        interrupts.delay(lambda: None, 60)


@pytest.mark.usefixtures("compiled")
def test_conv(capsys):
    conv = importlib.import_module("bench.conv")
    conv.main(["--seconds", "0.001", "--layers", "fifth"])
    assert "cnn-5 fifth" in capsys.readouterr().out

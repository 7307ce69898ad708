"""Owns what several test files share: backends, data, trainers, Ctrl-C, a new interpreter."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest

import fastnn as fnn
from fastnn import backend as backends
from fastnn.samples import Data
from fastnn.trainer import Trainer


def need_compiled():
    """Fail where the extension is missing."""
    if backends.compiled is None:
        pytest.fail(f"the extension is not built: {backends.missing}")


@pytest.fixture(scope="session", autouse=True)
def heed_ctrl_c():
    """A shell may start background jobs so that they, and all that they start, ignore Ctrl-C."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@contextmanager
def ctrl_c_after(seconds):
    """Press Ctrl-C so long after the block has begun, and expect that this ends the block."""
    previous = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@pytest.fixture(params=["reference", "compiled"])
def backend(request):
    """Run the test once with each backend."""
    if request.param == "compiled":
        need_compiled()
    with fnn.use_backend(request.param):
        yield request.param


@pytest.fixture
def compiled():
    """Run the test with the compiled kernels."""
    need_compiled()
    threads = fnn.get_num_threads()
    with fnn.use_backend("compiled"):
        yield backends.compiled
    fnn.set_num_threads(threads)


@pytest.fixture(scope="session")
def digits():
    """The 8x8 digits as (1797, 64) float32 in [0, 1], with their classes."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.data / 16).astype(np.float32), data.target


@pytest.fixture(scope="session")
def blobs():
    """Two classes in 6 features: (103, 6) float32, so that most batch sizes leave a rest."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(103, 6)).astype(np.float32)
    return x, (x[:, 0] + x[:, 1] > 0).astype(np.int64)


@pytest.fixture
def run_python():
    """Return a function that runs a script in a new interpreter and returns its output."""

    def run(script, timeout=60, **environment):
        result = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=os.environ | environment,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


def make_trainer(layers, features=12, samples=60, batch=10, optimizer=None, fuse=True):
    """Return a trainer of these layers and a last one, on noise of three classes."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, features)).astype(np.float32)
    y = rng.integers(0, 3, samples).astype(np.int32)
    model = fnn.Sequential([*layers, fnn.Dense(3)], features, seed=1)
    optimizer = optimizer or fnn.SGD(0.1)
    trainer = Trainer(
        model,
        Data(x, 1.0, y, 1.0),
        fnn.CrossEntropy(),
        optimizer,
        batch_size=batch,
        shuffle=True,
        fuse=fuse,
    )
    optimizer.fill(trainer._lr, 0)  # as run_epoch does
    return trainer


def op_names(plan):
    """Return what a plan's table calls its ops."""
    return [row["name"] for row in plan.table()]

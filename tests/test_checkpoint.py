"""Tests of runs that go on from a checkpoint, to the bits of a run that was never interrupted.

FASTNN_RESUMES sets the number of killed runs, FASTNN_FUZZ five times that of mutated checkpoints.
"""

import copy
import json
import os
import random
import signal
import time
import tracemalloc

import numpy as np
import pytest
from test_files import FUZZ, MIB, mutated

import fastnn as fnn
from fastnn import checkpoint

RESUMES = int(os.environ.get("FASTNN_RESUMES", "8"))
EPOCHS = 24


def images(n):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, 8, 8, 1), dtype=np.uint8), rng.integers(0, 4, n)


def mlp():
    x, y = images(300)
    net = [fnn.Flatten(), fnn.Dense(32, "relu"), fnn.Dropout(0.3), fnn.Dense(4)]
    return net, x, y, {"optimizer": fnn.Adam(clip_norm=1.0), "loss": "cross_entropy"}


def cnn():
    x, y = images(120)
    net = [fnn.Conv2D(4, 3, use_bias=False), fnn.BatchNorm(), fnn.ReLU(), fnn.MaxPool2D(2)]
    net += [fnn.Dropout(0.2), fnn.Flatten()]
    optimizer = fnn.SGD(0.05, momentum=0.9, nesterov=True, schedule=fnn.CosineDecay(100))
    return [*net, fnn.Dense(4, kernel_regularizer="l2")], x, y, {"optimizer": optimizer}


def rnn():
    x, y = images(120)
    net = [fnn.LSTM(8, return_sequences=True), fnn.Dropout(0.2), fnn.GRU(6, bidirectional=True)]
    x = (x[..., 0] / 255).astype(np.float32)
    return [*net, fnn.Dense(4)], x, y, {"optimizer": fnn.RMSProp(0.01), "class_weight": {1: 2.0}}


def autoencoder():
    x, _ = images(120)
    net = [fnn.Conv2D(4, 3, stride=2, padding=1, activation="relu"), fnn.Dropout(0.1)]
    net += [fnn.ConvTranspose2D(1, 3, stride=2, padding=1, output_padding=1), fnn.Sigmoid()]
    return net, x, x, {"optimizer": fnn.AdamW(0.01), "loss": "mse"}


NETS = {make.__name__: make for make in (mlp, cnn, rnn, autoencoder)}


def train(name, path=None, epochs=EPOCHS, seed=3, patience=8, callbacks=(), **options):
    net, x, y, chosen = NETS[name]()
    model = fnn.Sequential(net, seed=seed)
    watch = [
        fnn.EarlyStopping(patience=patience, min_delta=1e-4),
        fnn.ReduceOnPlateau(factor=0.5, patience=2),
    ]
    chosen = {"batch_size": 32, "validation_every": 3} | chosen | options
    held = {"validation_data": (x[-50:], y[-50:]), "callbacks": [*watch, *callbacks]}
    fitted = {"epochs": epochs, "verbose": 0, "checkpoint": path}
    model.fit(x[:-50], y[:-50], **held, **fitted, **chosen)
    return model


def everything(model):
    """All bits that a run leaves: weights, optimizer, history."""
    state = model.optimizer.state(model)
    numbers = [state.step, state.epoch, float(model.optimizer.lr), model.history.iterations]
    arrays = {**model.state_dict(), **state.buffers, **model.history.state_dict()}
    shown = {n: (a.dtype, a.tobytes()) for n, a in arrays.items() if not n.startswith("s")}
    return repr(numbers), shown


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch):
    """Save after each epoch, however short."""
    monkeypatch.setattr(checkpoint, "_SHARE", 0)


@pytest.mark.parametrize("name", NETS)
def test_a_run_in_parts_equals_a_run_at_once(name, tmp_path, backend):
    epochs = 6 if backend == "compiled" else 3
    want = everything(train(name, epochs=epochs))
    for part in (1, 2, epochs, epochs):
        got = train(name, tmp_path / "run", epochs=part)
    assert everything(got) == want
    assert os.listdir(tmp_path) == ["run"]


def test_a_run_that_a_callback_ended_stays_ended(tmp_path):
    want = train("mlp", epochs=200, patience=2)
    assert want.history.epochs < 200
    for _ in range(3):
        got = train("mlp", tmp_path / "run", epochs=200, patience=2)
        assert everything(got) == everything(want)


def test_a_later_fit_goes_on_in_its_own_order(tmp_path):
    """Also in a program that leaves out the fits before, and in those that follow."""

    def program(epochs, before, path=None):
        net, x, y, _ = mlp()
        model = fnn.Sequential(net, seed=3)
        options = {"optimizer": "adam", "verbose": 0}
        for _ in range(before):
            model.fit(x, y, **options)
        model.fit(x, y, epochs=epochs, checkpoint=path, **options)
        bits = [everything(model)]
        model.fit(x, y, **options)
        return [*bits, everything(model)]

    want = program(4, 2)
    program(2, 2, tmp_path / "run")
    assert program(4, 0, tmp_path / "run") == want
    program(1, 2, tmp_path / "other")
    assert program(4, 2, tmp_path / "other") == want


def test_the_checkpoint_is_a_model_file(tmp_path):
    model = train("cnn", tmp_path / "run", epochs=2, patience=99)
    loaded = fnn.load(tmp_path / "run")
    assert repr(loaded) == repr(model)
    assert loaded.theta.shape == model.theta.shape


def test_a_model_without_a_seed_takes_over_that_of_the_file(tmp_path):
    train("mlp", tmp_path / "run", epochs=2, seed=7)
    got = train("mlp", tmp_path / "run", epochs=4, seed=None)
    assert got.seed == 7 and everything(got) == everything(train("mlp", epochs=4, seed=7))


def test_a_copy_of_a_model_without_a_seed_takes_it_over_too(digits, tmp_path):
    x, y = (part[:60] for part in digits)
    options = {"checkpoint": tmp_path / "run", "epochs": 2, "verbose": 0}
    copies = [copy.deepcopy(fnn.Sequential([fnn.Dense(10)])) for _ in range(2)]
    first, second = (model.fit(x, y, **options) for model in copies)
    assert copies[0].seed == copies[1].seed
    assert first["loss"] == second["loss"]


def test_a_new_rate_and_a_users_state_come_back(tmp_path):
    class Count(fnn.Callback):
        def __init__(self):
            self.state = {}

        def on_epoch_end(self, model, history):
            model.optimizer.lr *= 0.9
            self.state = {"n": history.epochs, "worst": float("inf"), "a": np.arange(3), "t": None}

        def state_dict(self):
            return self.state

        def load_state_dict(self, state):
            self.state = state

    want = everything(train("mlp", epochs=5, callbacks=[Count()]))
    train("mlp", tmp_path / "run", epochs=2, callbacks=[Count()])
    count = Count()
    got = train("mlp", tmp_path / "run", epochs=2, callbacks=[count])
    assert count.state["n"] == 2 and count.state["worst"] == float("inf")
    assert count.state["a"].tolist() == [0, 1, 2] and count.state["t"] is None
    got = train("mlp", tmp_path / "run", epochs=5, callbacks=[count])
    assert everything(got) == want


def test_a_rate_that_several_callbacks_set_comes_back(tmp_path):
    def raised(model, history):
        if history.epochs == 3:
            model.optimizer.lr = np.float64(0.2)

    def fit(epochs, path=None):
        halving = fnn.ReduceOnPlateau("loss", factor=0.5, patience=1, min_delta=100.0)
        options = {"optimizer": fnn.SGD(0.05), "callbacks": [halving, raised]}
        return train("mlp", path, epochs, **options)

    want = fit(6)
    for epochs in (3, 4, 6):
        got = fit(epochs, tmp_path / "run")
    assert want.optimizer.lr == 0.025 and everything(got) == everything(want)


def test_the_same_optimizer_goes_on_after_a_callback_set_its_rate(tmp_path):
    def slower(model, history):
        model.optimizer.lr /= 1.5

    def fit(epochs, optimizer, path=tmp_path / "run"):
        return train("mlp", path, epochs, optimizer=optimizer, callbacks=[slower])

    want, same = everything(fit(6, fnn.SGD(0.05), None)), fnn.SGD(0.05)
    for epochs in (1, 2, 4):
        fit(epochs, same)
    with pytest.raises(ValueError, match=r"other optimizer: SGD\(lr=0.05\), here SGD\(lr=0.06\)"):
        fit(6, fnn.SGD(0.06))
    assert everything(fit(6, fnn.SGD(0.05))) == want  # as the run began


def test_options_of_callbacks_are_compared_but_not_paths_and_functions(tmp_path):
    def fit(epochs, name, monitor="loss", rate=0.1):
        callbacks = [
            fnn.ModelCheckpoint(tmp_path / name, monitor, save_best_only=True),
            fnn.LearningRateScheduler(lambda epoch: rate),
        ]
        return train("mlp", tmp_path / "run", epochs, callbacks=callbacks)

    fit(1, "a")
    with pytest.raises(ValueError, match=r"other callbacks\[2\]: .*monitor='loss', .*'accuracy', "):
        fit(2, "a", "accuracy")
    assert fit(2, "b", rate=0.2).history.epochs == 2 and (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 4}, "other seed: 3, here 4"),
        ({"batch_size": 16}, "other batch_size: 32, here 16"),
        ({"shuffle": False}, "other shuffle: True, here False"),
        ({"fuse": False}, "other fuse"),
        ({"optimizer": fnn.SGD()}, r"other optimizer: Adam\(clip_norm=1.0\), here SGD"),
        ({"optimizer": fnn.Adam(0.1, clip_norm=1.0)}, "other optimizer"),
        ({"loss": fnn.CrossEntropy(penalty="l2")}, "other loss"),
        ({"class_weight": {0: 2.0}}, "other data"),
        ({"validation_every": None}, "other validation_every"),
        ({"callbacks": [lambda model, history: None]}, "other callbacks: .*_Function"),
        ({"patience": 50}, r"other callbacks\[0\]: Early.*patience=8, .*here Early.*patience=50, "),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_checkpoint_of_another_run_is_refused(options, message, tmp_path):
    train("mlp", tmp_path / "run", epochs=1)
    content = (tmp_path / "run").read_bytes()
    with pytest.raises(ValueError, match=message):
        train("mlp", tmp_path / "run", epochs=2, **options)
    with pytest.raises(ValueError, match="other layers"):
        train("cnn", tmp_path / "run", epochs=2)
    assert (tmp_path / "run").read_bytes() == content


def test_files_that_are_no_checkpoints(tmp_path):
    path = tmp_path / "run"
    train("mlp", epochs=1).save(path)
    with pytest.raises(fnn.FileFormatError, match=r"no checkpoint .* as model.save writes it"):
        train("mlp", path)
    train("mlp", tmp_path / "good", epochs=1)
    content = (tmp_path / "good").read_bytes()
    for damaged in (b"", content[:-1], content[:-1] + bytes([content[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.raises(fnn.FileFormatError, match=str(path)):
            train("mlp", path)
    with pytest.raises(TypeError, match="path: got 3"):
        train("mlp", 3)
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*nowhere"):
        train("mlp", tmp_path / "nowhere" / "run")


def test_mutated_checkpoints(tmp_path):
    path, rng = tmp_path / "run", random.Random(6)
    x, y = np.eye(4, dtype=np.float32), np.arange(4) % 2

    def fit():
        model = fnn.Sequential([fnn.Dense(2), fnn.Dropout(0.1)], seed=0)
        model.fit(x, y, optimizer=fnn.Adam(), epochs=2, checkpoint=path, verbose=0)
        return model

    want = everything(fit())
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    model = json.loads(header.pop("__metadata__")["model"])
    intact = 0
    tracemalloc.start()
    try:
        for _ in range(FUZZ // 5):
            mutant = mutated(rng, {"arrays": header, "model": model}, content[end:])
            path.write_bytes(mutant)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                got = fit()
            except fnn.FileFormatError as error:
                assert str(path) in str(error)
            except ValueError as error:
                assert str(error).startswith("checkpoint: the run in ")
            else:
                assert np.isfinite(got.theta).all()
                intact += everything(got) == want
            assert tracemalloc.get_traced_memory()[1] - before <= 2 * len(mutant) + 32 * MIB
    finally:
        tracemalloc.stop()
    assert intact


def test_weights_that_diverged_are_not_saved(tmp_path):
    with pytest.raises(fnn.DivergenceError):
        train("mlp", tmp_path / "run", epochs=5, optimizer=fnn.SGD(1e30), batch_size=None)
    assert not os.listdir(tmp_path)


def test_saving_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    """Where it takes as long as an epoch, it is done after each tenth, and at the end."""
    now, epoch, saved, write = 0.0, 0, [], checkpoint.write

    def clock():
        nonlocal now
        now += 1e-6
        return now

    def count(model, history):
        nonlocal now, epoch
        now, epoch = now + 1.01, history.epochs

    def slow(*arguments):
        nonlocal now
        write(*arguments)
        now += 1
        saved.append(epoch)

    monkeypatch.setattr(checkpoint, "_SHARE", 10)
    monkeypatch.setattr(checkpoint, "write", slow)
    monkeypatch.setattr(checkpoint.time, "perf_counter", clock)
    options = {"epochs": 36, "patience": 99, "callbacks": [count]}
    model = train("mlp", tmp_path / "run", **options)
    assert saved == [1, 11, 21, 31, 36]
    assert everything(train("mlp", tmp_path / "run", **options)) == everything(model)


def finished(path):
    with checkpoint.TensorFile(path) as file:
        return file.entries["training/history/seconds"].shape[0] == EPOCHS


def test_killed_runs_go_on_to_the_same_bits(tmp_path, compiled):
    rng, within, wanted = random.Random(1), 0, {}
    for trial in range(RESUMES):
        name, path = list(NETS)[trial % len(NETS)], tmp_path / f"run{trial}"
        if name not in wanted:
            began = time.perf_counter()
            wanted[name] = everything(train(name, tmp_path / name)), time.perf_counter() - began
        want, seconds = wanted[name]
        for _ in range(2):
            child = os.fork()
            if not child:
                try:
                    train(name, path)
                    os._exit(0)
                finally:
                    os._exit(1)
            time.sleep(rng.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
            assert os.waitpid(child, 0)[1] in (0, signal.SIGKILL)
            within += path.exists() and not finished(path)
        assert everything(train(name, path)) == want, (name, trial)
    assert within > RESUMES // 4
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]

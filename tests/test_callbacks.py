"""Callbacks: when they are called, what they leave at every end of a run, and how they go on."""

import csv
import signal

import numpy as np
import pytest

import fastnn as fnn
from fastnn import trainer
from fastnn.history import History
from fastnn.trainer import Trainer


def net(**options):
    return fnn.Sequential([fnn.Dense(8, "tanh"), fnn.Dense(2)], 6, seed=0, **options)


class Log(fnn.Callback):
    """Writes down what is called, and with how many epochs."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    def on_train_begin(self, model, history):
        self.log.append((self.name, "train begin", history.epochs))

    def on_epoch_begin(self, model, history):
        self.log.append((self.name, "epoch begin", history.epochs))

    def on_epoch_end(self, model, history):
        self.log.append((self.name, "epoch end", history.epochs))

    def on_train_end(self, model, history):
        self.log.append((self.name, "train end", history.epochs))


class Script(fnn.Callback):
    """Puts given values of a figure into the history, which others then monitor."""

    def __init__(self, name, values):
        self.name, self.values = name, values

    def on_epoch_end(self, model, history):
        history.add({self.name: self.values[history.epochs - 1]})


class Weights(fnn.Callback):
    """Keeps the weights of each epoch."""

    def __init__(self):
        self.seen = []

    def on_epoch_end(self, model, history):
        self.seen.append(model.theta.copy())


def test_order_of_the_calls(blobs, backend):
    log = []

    def stop(model, history):
        log.append(("function", "epoch end", history.epochs))
        return np.bool_(history.epochs == 2)

    net().fit(*blobs, epochs=9, callbacks=[Log("a", log), stop, Log("b", log)], verbose=0)
    epochs = [
        (name, when, epoch)
        for epoch in (0, 1)
        for name, when, epoch in [
            ("a", "epoch begin", epoch),
            ("b", "epoch begin", epoch),
            ("a", "epoch end", epoch + 1),
            ("function", "epoch end", epoch + 1),
            ("b", "epoch end", epoch + 1),
        ]
    ]
    begin = [("a", "train begin", 0), ("b", "train begin", 0)]
    end = [("a", "train end", 2), ("b", "train end", 2)]
    assert log == [*begin, *epochs, *end]


def test_train_end_is_called_for_all_that_began_even_if_one_fails(blobs, backend):
    class Fails(Log):
        def on_train_begin(self, model, history):
            raise OSError("begin")

    class FailsLater(Log):
        def on_train_end(self, model, history):
            super().on_train_end(model, history)
            raise ValueError("end")

    log = []
    callbacks = [FailsLater("a", log), Log("b", log), Fails("c", log), Log("d", log)]
    with pytest.raises(ValueError, match="end") as caught:
        net().fit(*blobs, callbacks=callbacks, verbose=0)
    assert str(caught.value.__context__) == "begin"
    assert [entry[:2] for entry in log[2:]] == [("a", "train end"), ("b", "train end")]


# ---- EarlyStopping -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "options", "epochs", "best"),
    [
        ([5, 4, 3, 2, 1], {"patience": 1}, 5, 5),
        ([5, 4, 4.5, 4.2, 4], {"patience": 3}, 5, 2),
        ([5, 4, 4.5, 3.9, 4], {"patience": 2}, 5, 4),
        ([5, 4.5, 3.9, 3.5, 0], {"patience": 2, "min_delta": 1}, 5, 5),
        ([5, 4.5, 4.2, 4.1, 0], {"patience": 2, "min_delta": 2}, 3, 1),
        ([np.nan, 2, 3, 1, 1], {"patience": 2}, 5, 4),
        ([1, 2, 3, 4, 5], {"patience": 1, "mode": "max"}, 5, 5),
        ([1, 2, 1, 2, 5], {"patience": 2, "mode": "max"}, 4, 2),
    ],
)
def test_early_stopping(values, options, epochs, best, blobs, backend):
    stopping, weights = fnn.EarlyStopping(monitor="m", **options), Weights()
    model = net()
    history = model.fit(
        *blobs, epochs=5, callbacks=[Script("m", values), stopping, weights], verbose=0
    )
    assert (history.epochs, stopping.best_epoch) == (epochs, best)
    assert stopping.best == values[best - 1]
    np.testing.assert_array_equal(model.theta, weights.seen[best - 1])
    keeping = fnn.EarlyStopping(monitor="m", restore_best=False, **options)
    model = net()
    model.fit(*blobs, epochs=5, callbacks=[Script("m", values), keeping], verbose=0)
    np.testing.assert_array_equal(model.theta, weights.seen[-1])


def test_accuracy_is_better_where_it_is_larger(blobs, backend):
    stopping = fnn.EarlyStopping(monitor="val_accuracy", patience=3)
    history = net().fit(*blobs, epochs=6, validation_data=blobs, callbacks=[stopping], verbose=0)
    assert stopping.best == max(history["val_accuracy"])


@pytest.mark.parametrize("end", ["exception", "interrupt", "divergence", "interrupted step"])
def test_the_best_weights_are_restored_at_every_end(end, blobs, backend):
    copies = 300 if backend == "compiled" else 10  # an epoch takes longer than the timer below
    x, y = (np.concatenate([part] * copies) for part in blobs)

    def fail(model, history):
        if history.epochs == 3:
            if end == "exception":
                raise OSError("disk full")
            if end == "interrupt":
                signal.raise_signal(signal.SIGINT)
            elif end == "divergence":
                model.layers[0].w[:] = np.nan
            else:
                signal.setitimer(signal.ITIMER_REAL, 0.005)

    kinds = {"exception": OSError, "divergence": fnn.DivergenceError}
    stopping, weights, model = fnn.EarlyStopping("m", patience=9), Weights(), net()
    callbacks = [Script("m", [3, 1, 2, 4]), stopping, weights, fail]
    previous = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        with pytest.raises(kinds.get(end, KeyboardInterrupt)):
            model.fit(x, y, epochs=4, batch_size=2, callbacks=callbacks, verbose=0)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert model.history.epochs >= 3
    np.testing.assert_array_equal(model.theta, weights.seen[1])
    model.fit(*blobs, verbose=0)


def test_a_run_starts_afresh_unless_it_is_taken_up(blobs):
    stopping = fnn.EarlyStopping("m", patience=2)
    for _ in range(2):
        script = Script("m", [1, 2, 3, 4])
        assert net().fit(*blobs, epochs=4, callbacks=[script, stopping], verbose=0).epochs == 3
    state, again = stopping.state_dict(), fnn.EarlyStopping("m", patience=2)
    again.load_state_dict(state)
    history, model = History(), net()
    for _ in range(2):
        history.add_epoch({"m": 2.0}, samples=1, seconds=1.0)
    again.on_train_begin(model, history)
    assert (again.best, again.best_epoch) == (1, 1)
    again.on_train_end(model, history)
    for name, weight in model.state_dict().items():
        np.testing.assert_array_equal(weight, state[f"weights.{name}"])


def test_an_unknown_figure_is_named(blobs):
    for make in (fnn.EarlyStopping, fnn.ReduceOnPlateau):
        model = net()
        with pytest.raises(ValueError, match=r"^monitor: got 'val_loss', .*give validation_data"):
            model.fit(*blobs, callbacks=[make()], verbose=0)
        assert model.history.epochs == 1
        with pytest.raises(ValueError, match=r"^monitor: got 'val_acc', .* 'val_accuracy'\]$"):
            model.fit(*blobs, validation_data=blobs, callbacks=[make("val_acc")], verbose=0)


def test_the_line_of_an_epoch_shows_the_patience(blobs, capsys):
    stopping = fnn.EarlyStopping("m", patience=2)
    callbacks = [Script("m", [1, 2, 3]), stopping]
    net().fit(*blobs, epochs=3, callbacks=callbacks, verbose=2)
    lines = capsys.readouterr().out.splitlines()
    for line, shown in zip(lines, ("0/2", "1/2", "2/2"), strict=True):
        assert f"  patience {shown}  " in line
        assert line.startswith("epoch ")


# ---- the learning rate ---------------------------------------------------------------------------


def rates_of(callback, values, lr=1.0):
    """Return the rate that each epoch has, while a figure goes through the values."""
    optimizer, rates = fnn.SGD(lr), []

    class Note(fnn.Callback):
        def on_epoch_begin(self, model, history):
            rates.append(optimizer.lr)

    callbacks = [callback, Note()]
    if values is not None:
        callbacks.insert(0, Script("m", values))
    net().fit(
        np.zeros((4, 6)),
        [0, 1, 0, 1],
        optimizer=optimizer,
        epochs=5,
        callbacks=callbacks,
        verbose=0,
    )
    return rates


def test_reduce_on_plateau(backend):
    reduce = fnn.ReduceOnPlateau("m", factor=0.5, patience=1, min_delta=0)
    assert rates_of(reduce, [5, 4, 4, 4, 3]) == [1, 1, 1, 0.5, 0.25]
    assert rates_of(reduce, [1, 1, 2, 0, 1]) == [1, 1, 0.5, 0.25, 0.25]  # starts afresh
    slow = fnn.ReduceOnPlateau("m", factor=0.5, patience=2, min_delta=0)
    assert rates_of(slow, [5, 5, 5, 5, 5]) == [1, 1, 1, 0.5, 0.5]
    low = fnn.ReduceOnPlateau("m", factor=0.1, patience=1, min_lr=0.3)
    assert rates_of(low, [1, 1, 1, 1, 1]) == [1, 1, 0.3, 0.3, 0.3]
    # a rate below the lowest stays
    assert rates_of(low, [1, 1, 1, 1, 1], lr=0.2) == [0.2] * 5
    delta = fnn.ReduceOnPlateau("m", factor=0.5, patience=1, min_delta=1)
    assert rates_of(delta, [5, 4.5, 3, 2.5, 1]) == [1, 1, 0.5, 0.5, 0.25]


def test_a_reduction_is_taken_up():
    first = fnn.ReduceOnPlateau("m", factor=0.5, patience=1)
    rates_of(first, [1, 1, 1, 2, 2])
    second = fnn.ReduceOnPlateau("m", factor=0.5, patience=1)
    second.load_state_dict(first.state_dict())
    history, model = History(), net()
    for value in (1, 1, 1, 2, 2):
        history.add_epoch({"m": value}, samples=1, seconds=1.0)
    model.optimizer = fnn.SGD(1.0)
    second.on_train_begin(model, history)
    assert model.optimizer.lr == 1  # the checkpoint's, which others may have set since
    history.add_epoch({"m": 3}, samples=1, seconds=1.0)
    second.on_epoch_end(model, history)
    assert model.optimizer.lr == 0.5


def test_learning_rate_scheduler(backend):
    asked = []

    def rate(epoch):
        asked.append(epoch)
        return 1 / (1 + epoch)

    assert rates_of(fnn.LearningRateScheduler(rate), None) == [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]
    assert asked == [0, 1, 2, 3, 4]
    for bad in (0, -1, np.nan, "a", None):
        scheduler = fnn.LearningRateScheduler(lambda epoch, bad=bad: bad)
        with pytest.raises((TypeError, ValueError), match=r"^rate\(0\): got "):
            rates_of(scheduler, None)


@pytest.mark.parametrize(
    "schedule",
    [
        fnn.StepDecay(7, 0.5),
        fnn.ExponentialDecay(20, 0.3),
        fnn.CosineDecay(25, 0.1),
        fnn.WarmUp(6, fnn.CosineDecay(20)),
        fnn.WarmUp(30),
    ],
)
def test_schedules_in_plans(schedule, blobs, compiled):
    results = []
    for options in ({"eager": True}, {"fuse": False}):
        model = net()
        optimizer = fnn.SGD(0.1, momentum=0.5, schedule=schedule)
        model.fit(*blobs, optimizer=optimizer, epochs=3, batch_size=10, verbose=0, **options)
        results.append(model.theta.copy())
    np.testing.assert_array_equal(*results)
    assert 0 <= schedule(10**9) <= 1
    remade = type(schedule)(**schedule.config())
    assert [remade(step) for step in range(40)] == [schedule(step) for step in range(40)]


# ---- CSVLogger, History.to_csv -------------------------------------------------------------------


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_logger_is_up_to_date_after_each_epoch(blobs, tmp_path):
    path = tmp_path / "log.csv"

    def check(model, history):
        rows = read(path)
        assert [int(row["epoch"]) for row in rows] == list(range(1, history.epochs + 1))
        for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
            assert [float(row[name]) for row in rows] == history[name]

    callbacks = [fnn.CSVLogger(path), check]
    for _ in range(2):  # the second run writes it anew
        net().fit(*blobs, epochs=4, validation_data=blobs, callbacks=callbacks, verbose=0)
    assert list(tmp_path.iterdir()) == [path]


def test_csv_logger_with_a_figure_that_comes_later(blobs, tmp_path):
    path = tmp_path / "log.csv"

    def late(model, history):
        if history.epochs > 1:
            history.add({"extra": 1.0})

    net().fit(*blobs, epochs=3, callbacks=[late, fnn.CSVLogger(path)], verbose=0)
    rows = read(path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"] and "extra" in rows[0]


@pytest.mark.parametrize("kind", [fnn.CSVLogger, fnn.ModelCheckpoint])
def test_a_missing_folder_is_missed_before_the_first_epoch(kind, blobs, tmp_path):
    model = net()
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*nowhere"):
        model.fit(*blobs, callbacks=[kind(tmp_path / "nowhere" / "file")], verbose=0)
    assert model.history.epochs == 0


def test_weights_that_are_not_finite_are_never_the_best(blobs):
    def spoil(model, history):
        if history.epochs == 2:
            model.optimizer.lr = 3e38

    model, stopping = fnn.Sequential([fnn.Dense(2)], seed=0), fnn.EarlyStopping("loss")
    with pytest.raises(
        fnn.DivergenceError, match=r"^epoch 3, batch 1: layer \d .* not finite"
    ) as e:
        options = {"batch_size": None, "callbacks": [stopping, spoil], "verbose": 0}
        model.fit(blobs[0] * 1e3, blobs[1], epochs=9, optimizer=fnn.SGD(1e-7), **options)
    assert (e.value.epoch, e.value.batch) == (3, 1) and e.value.layer is not None
    assert stopping.best_epoch in (1, 2) and np.isfinite(model.theta).all()


def test_csv_logger_that_cannot_write_keeps_the_run(blobs, tmp_path):
    model = net()
    with pytest.raises(OSError):
        model.fit(*blobs, callbacks=[fnn.CSVLogger(tmp_path)], verbose=0)
    assert model.history.epochs == 1


def test_history_to_csv(blobs, tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("old")
    history = net().fit(
        *blobs, epochs=2, batch_size=10, validation_data=blobs, validation_every=5, verbose=0
    )
    history.to_csv(path)
    rows = read(path)
    assert list(rows[0]) == ["epoch", *history, "seconds", "samples_per_second"]
    assert [float(row["seconds"]) for row in rows] == history.seconds
    history.to_csv(str(path), by="iteration")
    rows = read(path)
    assert list(rows[0]) == list(history.iterations)
    assert [float(row["val_loss"]) for row in rows] == history.iterations["val_loss"]
    with pytest.raises(ValueError, match=r"^by: got 'batch'"):
        history.to_csv(path, by="batch")
    with pytest.raises(ValueError, match=r"^by: got 'iteration', .* validation_every"):
        net().fit(*blobs, verbose=0).to_csv(path, by="iteration")


def test_a_file_for_each_epoch(blobs, tmp_path):
    weights, path = Weights(), tmp_path / "net-{epoch:02d}-{m:.1f}.safetensors"
    callbacks = [Script("m", [3, 1, 2]), weights, fnn.ModelCheckpoint(path)]
    net().fit(*blobs, epochs=3, callbacks=callbacks, verbose=0)
    names = ["net-01-3.0", "net-02-1.0", "net-03-2.0"]
    assert sorted(file.stem for file in tmp_path.iterdir()) == names
    for name, theta in zip(names, weights.seen, strict=True):
        np.testing.assert_array_equal(fnn.load(tmp_path / f"{name}.safetensors").theta, theta)


def test_a_model_that_cannot_be_written_keeps_the_run(blobs, tmp_path):
    model, stopping = net(), fnn.EarlyStopping("loss")
    keep = fnn.ModelCheckpoint(tmp_path)
    with pytest.raises(OSError):
        model.fit(*blobs, callbacks=[stopping, keep], verbose=0)
    assert model.history.epochs == stopping.best_epoch == 1
    with pytest.raises(
        ValueError, match=r"^path: got '\{lr\}', expected no fields but epoch, loss"
    ):
        model.fit(*blobs, callbacks=[fnn.ModelCheckpoint("{lr}")], verbose=0)


# ---- validation_every ----------------------------------------------------------------------------


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("every", [1, 4, 11, 15, 100])
def test_validation_within_epochs(every, eager, blobs, backend):
    x, y = blobs  # 11 steps an epoch
    options = {"epochs": 3, "batch_size": 10, "validation_data": blobs, "verbose": 0}
    plain, model = net(), net()
    wanted = plain.fit(x, y, eager=eager, **options)
    history = model.fit(x, y, eager=eager, validation_every=every, **options)
    np.testing.assert_array_equal(model.theta, plain.theta)
    np.testing.assert_array_equal(history.batch_losses, wanted.batch_losses)
    assert dict(history) == dict(wanted)
    iterations = list(range(every, 34, every))
    assert history.iterations.get("iteration", []) == iterations
    if iterations:
        parts = [wanted.batch_losses[stop - every : stop].mean() for stop in iterations]
        np.testing.assert_allclose(history.iterations["loss"], parts, rtol=1e-6)
        assert list(history.iterations) == ["iteration", "loss", "val_loss", "val_accuracy"]
    for i, iteration in enumerate(iterations):
        if iteration % 11 == 0:
            assert history.iterations["val_loss"][i] == history["val_loss"][iteration // 11 - 1]
    assert len(set(history.iterations.get("val_loss", []))) == len(iterations)


def test_validation_time_is_not_training_time(blobs, compiled, monkeypatch):
    now, figures = 0, Trainer.figures

    def slow(self):
        nonlocal now
        now += 100 if self.optimizer is None else 1
        return figures(self)

    monkeypatch.setattr(Trainer, "figures", slow)
    monkeypatch.setattr(trainer.time, "perf_counter", lambda: now)
    history = net().fit(*blobs, batch_size=10, validation_data=blobs, validation_every=3, verbose=0)
    assert history.seconds == [1]


def test_divergence_in_a_validation_within_an_epoch(blobs, backend):
    x = blobs[0].copy()
    x[3] = 3e38
    model = fnn.Sequential([fnn.Dense(30, kernel_initializer="ones"), fnn.Dense(2)], 6, seed=0)
    with pytest.raises(fnn.DivergenceError, match="epoch 1, validation batch 1: "):
        model.fit(
            *blobs, batch_size=10, validation_data=(x, blobs[1]), validation_every=3, verbose=0
        )
    assert len(model.history.batch_losses) == 3 and not model.history.iterations


def test_model_checkpoint_saves_the_best(blobs, tmp_path):
    weights, losses = Weights(), Script("val_loss", [3, 1, 2, 0.5, 0.7])
    paths = [tmp_path / "best", tmp_path / "last"]
    saved = [fnn.ModelCheckpoint(paths[0], save_best_only=True), fnn.ModelCheckpoint(paths[1])]
    net().fit(*blobs, epochs=5, callbacks=[weights, losses, *saved], verbose=0)
    for path, epoch in zip(paths, (3, 4), strict=True):
        assert np.array_equal(fnn.load(path).theta, weights.seen[epoch])

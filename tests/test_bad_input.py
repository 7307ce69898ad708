"""Bad input: every public entry point refuses it, names the argument, and changes nothing."""

import re

import numpy as np
import pytest

import fastnn as fnn

ROWS, FEATURES, CLASSES = 12, 4, 3
NAN, INF = float("nan"), float("inf")


def good_x():
    return np.random.default_rng(0).normal(size=(ROWS, FEATURES)).astype(np.float32)


def good_y():
    return np.arange(ROWS) % CLASSES


def model():
    return fnn.Sequential([fnn.Dense(5, "relu"), fnn.Dense(CLASSES)], FEATURES, seed=0)


def spoiled(value, dtype=np.float32):
    x = good_x().astype(dtype)
    x[7, 2] = value
    return x


# ---- samples -------------------------------------------------------------------------------------

BAD_X = {
    "None": (None, TypeError, "expected numbers"),
    "a string": ("abc", TypeError, "expected numbers"),
    "a dict": ({"a": 1}, TypeError, "expected numbers"),
    "strings": (good_x().astype(str), TypeError, "expected numbers"),
    "bytes": (good_x().astype("S"), TypeError, "expected numbers"),
    "objects": (good_x().astype(object), TypeError, "dtype object, expected numbers"),
    "complex": (good_x().astype(complex), TypeError, "dtype complex128, expected numbers"),
    "dates": (np.zeros((ROWS, FEATURES), "M8[s]"), TypeError, "expected numbers"),
    "durations": (np.zeros((ROWS, FEATURES), "m8[s]"), TypeError, "expected numbers"),
    "records": (np.zeros(ROWS, [("a", "f4"), ("b", "f4")]), TypeError, "expected numbers"),
    "ragged": ([[1.0, 2.0], [3.0]], ValueError, "no rectangular array"),
    "0-d": (np.float32(1), ValueError, r"got shape \(\), expected \(rows, 4\)"),
    "1-d": (np.ones(ROWS, "f4"), ValueError, r"got shape \(12,\), expected \(rows, 4\)"),
    "one sample": (np.ones(FEATURES), ValueError, r"for one sample pass x\[None\]"),
    "3-d": (np.ones((ROWS, FEATURES, 1)), ValueError, r"got shape \(12, 4, 1\)"),
    "4-d": (np.ones((ROWS, 2, 2, 1)), ValueError, r"got shape \(12, 2, 2, 1\)"),
    "5-d": (np.ones((1, 1, 1, ROWS, FEATURES)), ValueError, r"got shape \(1, 1, 1, 12, 4\)"),
    "too few features": (np.ones((ROWS, 3)), ValueError, r"got shape \(12, 3\)"),
    "too many features": (np.ones((ROWS, 5)), ValueError, r"got shape \(12, 5\)"),
    "transposed": (good_x().T, ValueError, r"got shape \(4, 12\)"),
    "no features": (np.ones((ROWS, 0)), ValueError, r"got shape \(12, 0\)"),
    "no rows": (np.ones((0, FEATURES)), ValueError, "expected at least one row"),
    "an empty list": ([], ValueError, r"got shape \(0,\)"),
    "NaN": (spoiled(NAN), ValueError, "got nan in row 7, expected finite numbers"),
    "inf": (spoiled(INF), ValueError, "got inf in row 7"),
    "-inf": (spoiled(-INF), ValueError, "got -inf in row 7"),
    "NaN in float64": (spoiled(NAN, np.float64), ValueError, "got nan in row 7"),
    "inf in float16": (spoiled(INF, np.float16), ValueError, "got inf in row 7"),
    "too large for float32": (spoiled(1e39, np.float64), ValueError, "got inf in row 7"),
    "NaN in big-endian": (spoiled(NAN, ">f4"), ValueError, "got nan in row 7"),
    "NaN in Fortran order": (np.asfortranarray(spoiled(NAN)), ValueError, "got nan in row 7"),
    "NaN backwards": (spoiled(NAN)[::-1], ValueError, "got nan in row 4"),
    "masked": (np.ma.masked_greater(good_x(), 0), ValueError, "got masked values"),
}

X_ENTRIES = {
    "fit": lambda m, x: m.fit(x, good_y(), verbose=0),
    "validation_data": lambda m, x: m.fit(
        good_x(), good_y(), validation_data=(x, good_y()), verbose=0
    ),
    "evaluate": lambda m, x: m.evaluate(x, good_y()),
    "predict": lambda m, x: m.predict(x),
    "predict_classes": lambda m, x: m.predict_classes(x),
    "features": lambda m, x: m.features(x, 0),
}


def check(call, error, message, name=""):
    """Call on a warm model and expect an error, a usable model, and no other change."""
    net = model()
    net.predict(good_x())
    theta = net.theta.copy()
    with pytest.raises(error, match=message) as caught:
        call(net)
    assert re.search(name, str(caught.value)), f"{caught.value} does not name {name}"
    np.testing.assert_array_equal(net.theta, theta)
    net.predict(good_x())
    net.fit(good_x(), good_y(), verbose=0)


@pytest.mark.parametrize("entry", X_ENTRIES)
@pytest.mark.parametrize("case", BAD_X)
def test_bad_samples(case, entry, backend):
    x, error, message = BAD_X[case]
    kept = x.copy() if isinstance(x, np.ndarray) else None
    name = r"^validation_data\[0\]: " if entry == "validation_data" else "^x: "
    check(lambda net: X_ENTRIES[entry](net, x), error, message, name)
    if kept is not None:
        np.testing.assert_array_equal(np.asarray(x), np.asarray(kept))


@pytest.mark.parametrize("case", ["None", "a string", "0-d", "1-d", "no rows", "no features"])
def test_bad_first_samples_of_a_model_without_shape(case, backend):
    x, error, _ = BAD_X[case]
    for entry, call in X_ENTRIES.items():
        if entry != "validation_data":
            net = fnn.Sequential([fnn.Dense(CLASSES)])
            with pytest.raises(error, match=r"^x: "):
                call(net, x)
            assert net.input_shape is None
            net.predict(good_x())


# ---- targets -------------------------------------------------------------------------------------


def label(value, dtype=np.int64):
    y = good_y().astype(dtype)
    y[5] = value
    return y


def row(values, dtype=np.float64):
    y = np.eye(CLASSES, dtype=dtype)[good_y()]
    y[5] = values
    return y


BAD_LABELS = {
    "None": (None, TypeError, "expected numbers"),
    "strings": (["a"] * ROWS, TypeError, "expected numbers"),
    "objects": (good_y().astype(object), TypeError, "expected numbers"),
    "complex": (good_y().astype(complex), TypeError, "expected numbers"),
    "floats": (good_y() + 0.5, TypeError, "float64, expected integers"),
    "whole floats": (good_y().astype(float), TypeError, r"use y\.astype\(int\)"),
    "bools": (good_y() > 0, TypeError, "bool, expected integers"),
    "-1": (label(-1), ValueError, r"got label -1 in row 5, expected labels in \[0, 3\)"),
    "n_classes": (label(3), ValueError, r"got label 3 in row 5"),
    "255 as uint8": (label(255, np.uint8), ValueError, r"got label 255 in row 5"),
    "2**32 + 1": (label(2**32 + 1), ValueError, r"got label 4294967297 in row 5"),
    "2**63": (label(2**63, np.uint64), ValueError, r"got label 9223372036854775808"),
    "0-d": (np.int64(1), ValueError, r"got shape \(\)"),
    "a column": (good_y()[:, None], ValueError, r"got shape \(12, 1\), expected \(rows,\)"),
    "3-d": (np.ones((ROWS, CLASSES, 1), int), ValueError, r"got shape \(12, 3, 1\)"),
    "5-d": (np.ones((ROWS, 1, 1, 1, CLASSES)), ValueError, r"got shape \(12, 1, 1, 1, 3\)"),
    "too few columns": (np.eye(2)[good_y() % 2], ValueError, r"expected \(rows,\) or \(rows, 3\)"),
    "too few": (good_y()[:-1], ValueError, "got 11 rows, expected 12"),
    "too many": (np.zeros(13, int), ValueError, "got 13 rows, expected 12"),
    "none": (np.zeros(0, int), ValueError, "got 0 rows, expected 12"),
    "too few rows": (np.eye(CLASSES)[good_y()][:-2], ValueError, "got 10 rows, expected 12"),
    "NaN": (row(NAN), ValueError, "got nan in row 5"),
    "inf": (row(INF), ValueError, "got inf in row 5"),
    "two-hot": (row([1, 1, 0]), ValueError, "got row 5 .* probabilities that sum to 1"),
    "no class": (row([0, 0, 0]), ValueError, "got row 5"),
    "negative": (row([1.5, -0.5, 0]), ValueError, "got row 5"),
    "two-hot integers": (row([1, 1, 0], int), ValueError, "got row 5"),
    "ragged": ([[1, 0, 0], [1, 0]], ValueError, "no rectangular array"),
    "masked": (np.ma.masked_equal(good_y(), 2), ValueError, "got masked values"),
}

Y_ENTRIES = {
    "fit": lambda m, y: m.fit(good_x(), y, verbose=0),
    "validation_data": lambda m, y: m.fit(
        good_x(), good_y(), validation_data=(good_x(), y), verbose=0
    ),
    "evaluate": lambda m, y: m.evaluate(good_x(), y),
}


@pytest.mark.parametrize("entry", Y_ENTRIES)
@pytest.mark.parametrize("case", BAD_LABELS)
def test_bad_labels(case, entry, backend):
    y, error, message = BAD_LABELS[case]
    kept = y.copy() if isinstance(y, np.ndarray) else None
    name = r"^validation_data\[1\]: " if entry == "validation_data" else "^y: "
    check(lambda net: Y_ENTRIES[entry](net, y), error, message, name)
    if kept is not None:
        np.testing.assert_array_equal(np.asarray(y), np.asarray(kept))


BAD_VALUES = {
    "strings": ([["a"] * CLASSES] * ROWS, TypeError, "expected numbers"),
    "labels": (good_y(), ValueError, r"got shape \(12,\), expected \(rows, 3\)"),
    "0-d": (1.0, ValueError, r"got shape \(\)"),
    "too few columns": (np.ones((ROWS, 2)), ValueError, r"got shape \(12, 2\)"),
    "NaN": (row(NAN), ValueError, "got nan in row 5"),
    "inf": (row(-INF), ValueError, "got -inf in row 5"),
    "too large": (row(1e39), ValueError, "got inf in row 5"),
    "too few": (np.ones((ROWS - 1, CLASSES)), ValueError, "got 11 rows, expected 12"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_bad_targets_of_mean_squared_error(case, backend):
    y, error, message = BAD_VALUES[case]
    check(lambda net: net.fit(good_x(), y, loss="mse", verbose=0), error, message, "^y: ")
    check(lambda net: net.evaluate(good_x(), y, "mse"), error, message, "^y: ")


@pytest.mark.parametrize("value", [-0.1, 1.5, 2])
def test_bad_targets_of_binary_cross_entropy(value, backend):
    y = row(value, np.float64)
    for fit in (True, False):
        check(
            lambda net, fit=fit: (
                net.fit(good_x(), y, loss="binary_cross_entropy", verbose=0)
                if fit
                else net.evaluate(good_x(), y, "binary_cross_entropy")
            ),
            ValueError,
            r"^y: got .* in row 5, expected values in \[0, 1\]",
        )


def test_cross_entropy_needs_classes():
    net = fnn.Sequential([fnn.Dense(1)], FEATURES)
    with pytest.raises(ValueError, match=r"^loss: CrossEntropy needs .* at least 2 classes"):
        net.fit(good_x(), good_y(), verbose=0)
    net = fnn.Sequential([fnn.Dense(4), fnn.Reshape((2, 2))], FEATURES)
    with pytest.raises(ValueError, match=r"expected \(rows, 2\) or \(rows, 2, 2\); is a Flatten"):
        net.fit(good_x(), good_y(), verbose=0)
    for data_format, shape in (("channels_last", r"1, 2, 3"), ("channels_first", r"3, 1, 2")):
        layers = [fnn.Dense(6), fnn.Reshape((1, 2, 3))]
        net = fnn.Sequential(layers, FEATURES, data_format=data_format)
        message = rf"^y: got shape \(\d+, 4\), expected \(rows, 1, 2\) or \(rows, {shape}\)"
        with pytest.raises(ValueError, match=message):
            net.fit(good_x(), np.zeros((len(good_x()), 4), int), verbose=0)


def test_a_softmax_over_other_rows_than_the_output_has_is_refused():
    layers = [fnn.Dense(10), fnn.Softmax(), fnn.Reshape((2, 5))]
    net = fnn.Sequential(layers, FEATURES)
    with pytest.raises(ValueError, match=r"^layer 1 \(Softmax\): its rows of 10 are not"):
        net.fit(good_x(), np.zeros((len(good_x()), 2), int), verbose=0)


# ---- options of fit and the rest -----------------------------------------------------------------

BAD_OPTIONS = [
    ("epochs", 0, ValueError, "got 0, expected an integer >= 1"),
    ("epochs", -3, ValueError, "got -3"),
    ("epochs", 1.5, TypeError, r"got 1.5 \(float\)"),
    ("epochs", 2.0, TypeError, r"got 2.0 \(float\)"),
    ("epochs", "2", TypeError, r"got '2' \(str\)"),
    ("epochs", None, TypeError, "got None"),
    ("epochs", True, TypeError, r"got True \(bool\)"),
    ("epochs", NAN, TypeError, "got nan"),
    ("batch_size", 0, ValueError, "got 0, expected an integer >= 1"),
    ("batch_size", -1, ValueError, "got -1"),
    ("batch_size", 3.0, TypeError, r"got 3.0 \(float\)"),
    ("batch_size", "all", TypeError, "got 'all'"),
    ("batch_size", [32], TypeError, r"got \[32\]"),
    ("verbose", 3, ValueError, "got 3, expected an integer >= 0 and <= 2"),
    ("verbose", -1, ValueError, "got -1"),
    ("verbose", "loud", TypeError, "got 'loud'"),
    ("seed", -1, ValueError, "got -1"),
    ("seed", 2**64, ValueError, "got 18446744073709551616"),
    ("seed", 0.5, TypeError, "got 0.5"),
    ("seed", "a", TypeError, "got 'a'"),
    ("shuffle", "yes", TypeError, "got 'yes', expected True or False"),
    ("shuffle", 1, TypeError, "got 1"),
    ("eager", None, TypeError, "got None"),
    ("fuse", "no", TypeError, "got 'no'"),
    ("callbacks", [3], TypeError, r"got \[3\], expected a list of functions or Callbacks"),
    ("callbacks", 3, TypeError, "got 3"),
    ("loss", "crossentropy", ValueError, r"unknown name 'crossentropy'; .*'cross_entropy'"),
    ("loss", "", ValueError, "unknown name ''"),
    ("loss", None, TypeError, "got None"),
    ("loss", 3, TypeError, "got 3"),
    ("loss", fnn.CrossEntropy, TypeError, r"make an object of it: CrossEntropy\(...\)"),
    ("optimizer", "sgdm", ValueError, "unknown name 'sgdm'; .*'sgd', 'rmsprop', 'adam', 'adamw'"),
    ("optimizer", 0.01, TypeError, r"got 0.01 \(float\)"),
    ("optimizer", fnn.SGD, TypeError, r"make an object of it: SGD\(...\)"),
    ("optimizer", fnn.CrossEntropy(), TypeError, "got CrossEntropy"),
    ("validation_data", good_x(), TypeError, r"got ndarray, expected \(x, y\) or \(x"),
    ("validation_data", (good_x(),), TypeError, "got tuple of 1"),
    ("validation_data", (good_x(), good_y(), 1, 1), TypeError, "got tuple"),
    ("lengths", np.ones(12, int), ValueError, "got lengths, expected None, because no layer"),
    ("validation_data", 0.2, TypeError, "got float"),
    ("validation_every", 0, ValueError, "got 0, expected an integer >= 1"),
    ("validation_every", 2.5, TypeError, "got 2.5"),
    ("validation_every", 5, ValueError, "got 5, expected None without validation_data"),
    ("callbacks", [fnn.EarlyStopping], TypeError, r"make an object of it: EarlyStopping\(...\)"),
    ("sample_weight", np.ones(ROWS - 1), ValueError, r"got shape \(11,\), expected \(12,\)"),
    ("sample_weight", np.ones((ROWS, 1)), ValueError, r"got shape \(12, 1\)"),
    ("sample_weight", -np.arange(ROWS), ValueError, "got -1.0 in row 1, expected .* >= 0"),
    ("sample_weight", label(NAN, float), ValueError, "got nan in row 5"),
    ("sample_weight", label(1e39, float), ValueError, "got inf in row 5"),
    ("sample_weight", np.zeros(ROWS), ValueError, "got 0 only"),
    ("sample_weight", ["1"] * ROWS, TypeError, "expected numbers"),
    ("sample_weight", 2.0, ValueError, r"got shape \(\)"),
    ("class_weight", [1, 2, 3], TypeError, r"got \[1, 2, 3\] \(list\), expected a dict"),
    ("class_weight", "balanced", TypeError, "got 'balanced'"),
    ("class_weight", {3: 1.0}, ValueError, "got 3, expected an integer >= 0 and <= 2"),
    ("class_weight", {-1: 1.0}, ValueError, "got -1"),
    ("class_weight", {"a": 1.0}, TypeError, "got 'a'"),
    ("class_weight", {0: 0, 1: 0, 2: 0}, ValueError, "got 0 only"),
]


@pytest.mark.parametrize(("name", "value", "error", "message"), BAD_OPTIONS)
def test_bad_options_of_fit(name, value, error, message, backend):
    check(
        lambda net: net.fit(good_x(), good_y(), **({"verbose": 0} | {name: value})),
        error,
        message,
        f"^{name}: ",
    )


def test_bad_class_weights(backend):
    for value, message in ((-1, "got -1.0"), (NAN, "got nan"), ("a", "got 'a'")):
        with pytest.raises((TypeError, ValueError), match=rf"^class_weight\[1\]: {message}"):
            model().fit(good_x(), good_y(), class_weight={1: value}, verbose=0)
    for targets in (np.full((ROWS, CLASSES), 1 / CLASSES), good_x()[:, :CLASSES]):
        with pytest.raises(ValueError, match=r"^class_weight: got .*expected None, because"):
            loss = "cross_entropy" if targets.min() > 0 else "mse"
            model().fit(good_x(), targets, loss=loss, class_weight={1: 2.0}, verbose=0)


def test_class_weights_of_a_single_output_go_with_yes_and_no():
    net = fnn.Sequential([fnn.Dense(1)], seed=0)
    options = {"class_weight": {1: 2.0}, "verbose": 0}
    for loss, y in (("binary_cross_entropy", [0.5] * ROWS), ("mse", [1] * ROWS)):
        with pytest.raises(ValueError, match=r"^class_weight: .* 0 and 1 of binary cross-entropy"):
            net.fit(good_x(), y, loss=loss, **options)
    options["class_weight"] = {2: 2.0}
    with pytest.raises(ValueError, match=r"^class_weight: got 2, expected .* <= 1"):
        net.fit(good_x(), [0] * ROWS, loss="binary_cross_entropy", **options)


def test_third_validation_data_are_lengths():
    data = good_x(), good_y(), np.ones(ROWS)
    message = r"^validation_data\[2\], the lengths: got lengths, expected None"
    with pytest.raises(ValueError, match=message):
        model().fit(good_x(), good_y(), validation_data=data, verbose=0)


BAD_CALLS = {
    "lr 0": (lambda: fnn.SGD(0), ValueError, "^lr: got 0.0, expected a finite number > 0"),
    "lr negative": (lambda: fnn.Adam(-0.1), ValueError, "^lr: got -0.1"),
    "lr NaN": (lambda: fnn.RMSProp(NAN), ValueError, "^lr: got nan"),
    "lr infinite": (lambda: fnn.AdamW(INF), ValueError, "^lr: got inf"),
    "lr string": (lambda: fnn.SGD("0.1"), TypeError, r"^lr: got '0.1' \(str\)"),
    "lr None": (lambda: fnn.SGD(None), TypeError, "^lr: got None"),
    "lr bool": (lambda: fnn.SGD(True), TypeError, "^lr: got True"),
    "lr complex": (lambda: fnn.SGD(1j), TypeError, "^lr: got 1j"),
    "lr array": (lambda: fnn.SGD(np.ones(2)), TypeError, "^lr: got array"),
    "momentum 1": (lambda: fnn.SGD(0.1, 1.0), ValueError, "^momentum: got 1.0, .*>= 0 and < 1"),
    "momentum negative": (lambda: fnn.SGD(0.1, -0.1), ValueError, "^momentum: got -0.1"),
    "nesterov alone": (lambda: fnn.SGD(0.1, nesterov=True), ValueError, "^nesterov: got True"),
    "nesterov 1": (lambda: fnn.SGD(0.1, 0.9, nesterov=1), TypeError, "^nesterov: got 1"),
    "rho 1": (lambda: fnn.RMSProp(rho=1), ValueError, "^rho: got 1.0"),
    "eps 0": (lambda: fnn.Adam(eps=0), ValueError, "^eps: got 0.0"),
    "beta1 1": (lambda: fnn.Adam(beta1=1.0), ValueError, "^beta1: got 1.0"),
    "beta2 NaN": (lambda: fnn.Adam(beta2=NAN), ValueError, "^beta2: got nan"),
    "decay negative": (lambda: fnn.AdamW(weight_decay=-1), ValueError, "^weight_decay: got -1.0"),
    "clip 0": (lambda: fnn.SGD(0.1, clip_norm=0), ValueError, "^clip_norm: got 0.0, .*> 0"),
    "clip NaN": (lambda: fnn.Adam(clip_norm=NAN), ValueError, "^clip_norm: got nan"),
    "clip string": (lambda: fnn.RMSProp(clip_norm="1"), TypeError, "^clip_norm: got '1'"),
    "clip infinite": (lambda: fnn.AdamW(clip_norm=INF), ValueError, "^clip_norm: got inf"),
    "alpha negative": (lambda: fnn.L2(-0.1), ValueError, "^alpha: got -0.1, .*>= 0"),
    "alpha NaN": (lambda: fnn.L1(NAN), ValueError, "^alpha: got nan"),
    "l2 string": (lambda: fnn.L1L2(0.1, "a"), TypeError, "^l2: got 'a'"),
    "regularizer": (
        lambda: fnn.Dense(3, kernel_regularizer="l3"),
        ValueError,
        "^Dense: kernel_regularizer: unknown name 'l3'; expected one of 'l1', 'l2'",
    ),
    "regularizer number": (
        lambda: fnn.Dense(3, kernel_regularizer=0.01),
        TypeError,
        "^Dense: kernel_regularizer: got 0.01",
    ),
    "regularizer class": (
        lambda: fnn.Dense(3, kernel_regularizer=fnn.L2),
        TypeError,
        r"make an object of it: L2\(...\)",
    ),
    "penalty": (lambda: fnn.CrossEntropy(penalty=0.01), TypeError, "^penalty: got 0.01"),
    "delta 0": (lambda: fnn.Huber(0), ValueError, "^delta: got 0.0, .*> 0"),
    "delta NaN": (lambda: fnn.Huber(NAN), ValueError, "^delta: got nan"),
    "leaky slope": (lambda: fnn.LeakyGELU(-1), ValueError, "^LeakyGELU: slope: got -1.0"),
    "monitor": (lambda: fnn.EarlyStopping(monitor=3), TypeError, "^monitor: got 3"),
    "patience 0": (lambda: fnn.EarlyStopping(patience=0), ValueError, "^patience: got 0"),
    "patience float": (lambda: fnn.ReduceOnPlateau(patience=2.5), TypeError, "^patience: got 2.5"),
    "min_delta": (lambda: fnn.EarlyStopping(min_delta=-1), ValueError, "^min_delta: got -1.0"),
    "mode": (lambda: fnn.EarlyStopping(mode="best"), ValueError, "^mode: got 'best'"),
    "restore_best": (lambda: fnn.EarlyStopping(restore_best=1), TypeError, "^restore_best: got 1"),
    "factor 1": (lambda: fnn.ReduceOnPlateau(factor=1), ValueError, "^factor: got 1.0, .*< 1"),
    "min_lr": (lambda: fnn.ReduceOnPlateau(min_lr=-1), ValueError, "^min_lr: got -1.0"),
    "rate": (lambda: fnn.LearningRateScheduler(0.1), TypeError, "^rate: got 0.1"),
    "log path": (lambda: fnn.CSVLogger(None), TypeError, "^path: got None"),
    "save_best_only": (
        lambda: fnn.ModelCheckpoint("a", save_best_only=1),
        TypeError,
        "^save_best_only: got 1",
    ),
    "model path": (lambda: fnn.ModelCheckpoint(3), TypeError, "^path: got 3"),
    "load path": (lambda: fnn.load(None), TypeError, "^path: got None"),
    "load custom": (lambda: fnn.load("a", custom_objects=3), TypeError, "^custom_objects: got 3"),
    "save path": (lambda: model().save(3.5), TypeError, "^path: got 3.5"),
    "checkpoint path": (
        lambda: model().fit(good_x(), good_y(), checkpoint=3, verbose=0),
        TypeError,
        "^path: got 3",
    ),
    "rate of 400 digits": (lambda: fnn.Dropout(10**400), ValueError, "^Dropout: rate: got inf"),
    "every 0": (lambda: fnn.StepDecay(0), ValueError, "^every: got 0"),
    "factor 0": (lambda: fnn.StepDecay(10, 0), ValueError, "^factor: got 0.0, .*> 0"),
    "factor 2": (lambda: fnn.ExponentialDecay(10, 2), ValueError, "^factor: got 2.0"),
    "steps float": (lambda: fnn.CosineDecay(1e3), TypeError, "^steps: got 1000.0"),
    "floor": (lambda: fnn.CosineDecay(10, 1.5), ValueError, "^floor: got 1.5"),
    "after": (lambda: fnn.WarmUp(10, after=0.5), TypeError, "^after: got 0.5"),
    "schedule number": (lambda: fnn.SGD(0.1, schedule=0.5), TypeError, "^schedule: got 0.5"),
    "units 0": (lambda: fnn.Dense(0), ValueError, "^Dense: units: got 0, expected an integer >= 1"),
    "units negative": (lambda: fnn.Dense(-4), ValueError, "^Dense: units: got -4"),
    "units float": (lambda: fnn.Dense(4.0), TypeError, r"^Dense: units: got 4.0 \(float\)"),
    "units string": (lambda: fnn.Dense("4"), TypeError, "^Dense: units: got '4'"),
    "units None": (lambda: fnn.Dense(None), TypeError, "^Dense: units: got None"),
    "activation": (
        lambda: fnn.Dense(3, "rel"),
        ValueError,
        "^Dense: activation: unknown name 'rel'; .*",
    ),
    "activation number": (lambda: fnn.Dense(3, 4), TypeError, "^Dense: activation: got 4"),
    "activation class": (lambda: fnn.Dense(3, fnn.ReLU), TypeError, r"make an .*: ReLU\(...\)"),
    "activation function": (
        lambda: fnn.Dense(3, np.tanh),
        TypeError,
        "^Dense: activation: got <ufunc",
    ),
    "use_bias": (lambda: fnn.Dense(3, use_bias=0), TypeError, "^Dense: use_bias: got 0"),
    "initializer": (
        lambda: fnn.Dense(3, kernel_initializer="he"),
        ValueError,
        "^Dense: kernel_initializer: unknown name 'he'; .*'he_normal'",
    ),
    "bias initializer": (
        lambda: fnn.Dense(3, bias_initializer=1.0),
        TypeError,
        "^Dense: bias_initializer: got 1.0",
    ),
    "constant NaN": (lambda: fnn.Constant(NAN), ValueError, "^value: got nan"),
    "uniform without end": (
        lambda: fnn.RandomUniform(-1e308, 1e308),
        ValueError,
        "^high - low: got inf",
    ),
    "constant beyond float32": (
        lambda: fnn.Sequential([fnn.Dense(2, kernel_initializer=fnn.Constant(1e300))], 3),
        ValueError,
        r"^weight 0.w: Constant\(1e\+300\) gave .* expected finite float32 of shape \(3, 2\)",
    ),
    "uniform reversed": (lambda: fnn.RandomUniform(1, 0), ValueError, "^high: got 0.0, .*>= 1"),
    "std negative": (lambda: fnn.RandomNormal(0, -1), ValueError, "^std: got -1.0"),
    "dropout 1": (lambda: fnn.Dropout(1.0), ValueError, "^Dropout: rate: got 1.0, .*>= 0 and < 1"),
    "dropout negative": (lambda: fnn.Dropout(-0.1), ValueError, "^Dropout: rate: got -0.1"),
    "dropout NaN": (lambda: fnn.Dropout(NAN), ValueError, "^Dropout: rate: got nan"),
    "dropout string": (lambda: fnn.Dropout("0.5"), TypeError, "^Dropout: rate: got '0.5'"),
    "slope negative": (lambda: fnn.LeakyReLU(-1), ValueError, "^LeakyReLU: slope: got -1.0"),
    "slope infinite": (lambda: fnn.LeakyReLU(INF), ValueError, "^LeakyReLU: slope: got inf"),
    "approximate": (lambda: fnn.GELU("tanh"), TypeError, "^GELU: approximate: got 'tanh'"),
    "reshape empty": (lambda: fnn.Reshape(()), ValueError, r"^Reshape: shape: got \(\)"),
    "reshape 0": (lambda: fnn.Reshape((0, 2)), ValueError, r"^Reshape: shape: got \(0, 2\)"),
    "reshape -1 twice": (lambda: fnn.Reshape((-1, -1)), ValueError, "at most one of them -1"),
    "reshape -2": (lambda: fnn.Reshape((-2,)), ValueError, "^Reshape: shape: got -2"),
    "reshape float": (lambda: fnn.Reshape((2.0,)), TypeError, "^Reshape: shape: got 2.0"),
    "no layers": (lambda: fnn.Sequential([]), ValueError, "^layers: got none"),
    "layers None": (lambda: fnn.Sequential(None), TypeError, "^layers: got None"),
    "one layer": (lambda: fnn.Sequential(fnn.Dense(3)), TypeError, "expected a list of layers"),
    "layers with a string": (
        lambda: fnn.Sequential([fnn.Dense(3), "relu"]),
        TypeError,
        "^layers: got 'relu' at 1, expected a layer",
    ),
    "layer class": (
        lambda: fnn.Sequential([fnn.ReLU]),
        TypeError,
        r"make an object of it: ReLU\(\)",
    ),
    "layer twice": (
        lambda: fnn.Sequential([fnn.Dense(3)] * 2),
        ValueError,
        r"^layers: Dense\(3\) at 1 is used already",
    ),
    "layer of another model": (
        lambda: fnn.Sequential(fnn.Sequential([fnn.Dense(3)]).layers),
        ValueError,
        r"^layers: Dense\(3\) at 0 is used already",
    ),
    "input_shape 0": (lambda: fnn.Sequential([fnn.ReLU()], 0), ValueError, "^input_shape: got 0"),
    "input_shape negative": (
        lambda: fnn.Sequential([fnn.ReLU()], (3, -1)),
        ValueError,
        "^input_shape: got -1",
    ),
    "input_shape empty": (
        lambda: fnn.Sequential([fnn.ReLU()], ()),
        ValueError,
        r"^input_shape: got \(\)",
    ),
    "input_shape float": (
        lambda: fnn.Sequential([fnn.ReLU()], 3.0),
        TypeError,
        "^input_shape: got 3.0",
    ),
    "input_shape string": (
        lambda: fnn.Sequential([fnn.ReLU()], "784"),
        TypeError,
        "^input_shape: got '784'",
    ),
    "model seed": (lambda: fnn.Sequential([fnn.ReLU()], 3, seed=-1), ValueError, "^seed: got -1"),
    "model dtype": (
        lambda: fnn.Sequential([fnn.ReLU()], 3, dtype="float16"),
        ValueError,
        "^dtype: got float16",
    ),
    "model dtype unknown": (
        lambda: fnn.Sequential([fnn.ReLU()], 3, dtype="single precision"),
        TypeError,
        "^dtype: got 'single precision', expected float32 or float64",
    ),
    "dense on images": (
        lambda: fnn.Sequential([fnn.ReLU(), fnn.Dense(3)], (28, 28, 1)),
        ValueError,
        r"^layer 1 \(Dense\): input shape is \(28, 28, 1\), expected \(features,\) or \(steps, f",
    ),
    "reshape that does not fit": (
        lambda: fnn.Sequential([fnn.Flatten(), fnn.Reshape((5, -1))], (3, 4)),
        ValueError,
        r"^layer 1 \(Reshape\): input shape \(12,\) \(12 elements\) does not fit shape \(5, -1\)",
    ),
    "norm momentum": (lambda: fnn.BatchNorm(1.1), ValueError, "^BatchNorm: momentum: got 1.1"),
    "norm momentum NaN": (lambda: fnn.BatchNorm(NAN), ValueError, "^BatchNorm: momentum: got nan"),
    "norm eps 0": (lambda: fnn.BatchNorm(eps=0), ValueError, "^BatchNorm: eps: got 0.0"),
    "norm eps text": (
        lambda: fnn.BatchNorm(eps="small"),
        TypeError,
        "^BatchNorm: eps: got 'small'",
    ),
    "norm gamma": (
        lambda: fnn.BatchNorm(gamma_initializer="two"),
        ValueError,
        "^BatchNorm: gamma_initializer: unknown name 'two'",
    ),
    "pool size 0": (
        lambda: fnn.MaxPool2D(0),
        ValueError,
        "^MaxPool2D: size: got 0, expected an integer >= 1",
    ),
    "pool size float": (lambda: fnn.MaxPool2D(2.0), TypeError, "^MaxPool2D: size: got 2.0"),
    "pool size of three": (
        lambda: fnn.AvgPool2D((2, 2, 2)),
        ValueError,
        r"^AvgPool2D: size: got \(2, 2, 2\)",
    ),
    "pool stride 0": (lambda: fnn.MaxPool2D(2, (1, 0)), ValueError, "^MaxPool2D: stride: got 0"),
    "pool padding -1": (
        lambda: fnn.AvgPool2D(2, padding=-1),
        ValueError,
        "^AvgPool2D: padding: got -1",
    ),
    "pool padding full": (lambda: fnn.AvgPool2D(2, padding="full"), ValueError, "got 'full'"),
    "pool padding beyond half": (
        lambda: fnn.MaxPool2D(3, padding=2),
        ValueError,
        r"^MaxPool2D: padding: got 2, expected at most half the window, \(3, 3\)",
    ),
    "pool count_include_pad": (
        lambda: fnn.AvgPool2D(2, count_include_pad=1),
        TypeError,
        "^AvgPool2D: count_include_pad: got 1",
    ),
    "pool on rows": (
        lambda: fnn.Sequential([fnn.MaxPool2D(2)], (28, 28)),
        ValueError,
        r"^layer 0 \(MaxPool2D\): input shape is \(28, 28\), expected \(height, width, channels\)",
    ),
    "pool larger than the image": (
        lambda: fnn.Sequential([fnn.AvgPool2D(5, padding=1)], (9, 2, 1)),
        ValueError,
        r"^layer 0 \(AvgPool2D\): a window of 5 does not fit an image of 2, 4 with padding",
    ),
    "global pool on rows": (
        lambda: fnn.Sequential([fnn.GlobalAvgPool2D()], 5),
        ValueError,
        r"^layer 0 \(GlobalAvgPool2D\): input shape is \(5,\)",
    ),
    "upsample 0": (lambda: fnn.UpSample2D((2, 0)), ValueError, "^UpSample2D: size: got 0"),
    "upsample 2**31": (
        lambda: fnn.UpSample2D(2**31),
        ValueError,
        "^UpSample2D: size: got 2147483648",
    ),
    "upsample beyond memory": (
        lambda: fnn.Sequential([fnn.UpSample2D(2**24)], (2, 2, 1)),
        ValueError,
        r"^layer 0 \(UpSample2D\): output shape: got .*, expected fewer than 2\*\*31 elements",
    ),
    "too many weights": (
        lambda: fnn.Sequential([fnn.Dense(2**40)], 2**20),
        ValueError,
        r"^layer 0 \(Dense\): shape of w: got .*, expected fewer than 2\*\*31 elements",
    ),
    "load_state_dict of a list": (
        lambda: model().load_state_dict([1]),
        TypeError,
        "^state: got list, expected a dict",
    ),
    "state_dict without shapes": (
        lambda: fnn.Sequential([fnn.Dense(3)]).state_dict(),
        ValueError,
        "^the model has no shapes yet",
    ),
    "build twice": (
        lambda: model().build(5),
        ValueError,
        r"^input_shape: got \(5,\), the model is built for \(4,\)",
    ),
    "features of layer 3": (
        lambda: model().features(good_x(), 3),
        ValueError,
        "^layer: got 3, expected an integer >= -3 and <= 2",
    ),
    "features of layer -4": (lambda: model().features(good_x(), -4), ValueError, "^layer: got -4"),
    "features by name": (
        lambda: model().features(good_x(), "relu"),
        TypeError,
        "^layer: got 'relu'",
    ),
    "evaluate loss": (
        lambda: model().evaluate(good_x(), good_y(), "hinge"),
        ValueError,
        "^loss: unknown name 'hinge'",
    ),
    "evaluate weights": (
        lambda: model().evaluate(good_x(), good_y(), sample_weight=[1.0]),
        ValueError,
        r"^sample_weight: got shape \(1,\), expected \(12,\)",
    ),
    "evaluate without targets": (
        lambda: model().evaluate(good_x(), None),
        TypeError,
        "^y: ",
    ),
    "threads": (lambda: fnn.set_num_threads(0), ValueError, "^n: got 0"),
    "backend": (lambda: fnn.use_backend("numpy"), ValueError, "^name: got 'numpy'"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls(case):
    call, error, message = BAD_CALLS[case]
    with pytest.raises(error, match=message):
        call()


def test_there_are_enough_cases():
    cases = len(BAD_X) + len(BAD_LABELS) + len(BAD_VALUES) + len(BAD_OPTIONS) + len(BAD_CALLS)
    assert cases >= 60


@pytest.mark.parametrize("value", [NAN, INF, -1, "0.5", None])
def test_a_schedule_that_returns_nonsense(value, backend):
    optimizer = fnn.SGD(0.1, schedule=lambda step: value)
    check(
        lambda net: net.fit(good_x(), good_y(), optimizer=optimizer, verbose=0),
        (TypeError, ValueError),
        r"^schedule\(0\): got ",
    )


def test_a_rate_that_becomes_nonsense(backend):
    optimizer = fnn.SGD(0.1)
    optimizer.lr = NAN
    check(
        lambda net: net.fit(good_x(), good_y(), optimizer=optimizer, verbose=0),
        ValueError,
        "^lr: got nan",
    )


def test_a_user_layer_with_wrong_shapes(backend):
    class Wrong(fnn.Layer):
        def __init__(self, shape):
            self.shape = shape

        def build(self, input_shape):
            return self.shape

    for shape in (None, (0,), (2, -1), "a", 1.5):
        with pytest.raises((TypeError, ValueError), match=r"^layer 1 \(Wrong\): output shape: got"):
            fnn.Sequential([fnn.Dense(2), Wrong(shape)], 3)


@pytest.mark.parametrize("name", ["out", "dx"])
@pytest.mark.filterwarnings("ignore:.*computes outside the kernels")
def test_a_user_layer_that_binds_its_result_anew(name, backend):
    class Wrong(fnn.Layer):
        def forward(self, k, x, out, saved):
            if name == "out":
                out = 2 * x
            else:
                np.multiply(2, x, out=out)

        def backward(self, k, dout, x, out, dx, saved):
            dx = 2 * dout  # noqa: F841

    message = rf"^layer 1 \(Wrong\): nothing was written into {name}: "
    for eager in (False, True):
        net = fnn.Sequential([fnn.Dense(5), Wrong(), fnn.Dense(CLASSES)], FEATURES, seed=0)
        with pytest.raises(ValueError, match=message):
            net.fit(good_x(), good_y(), eager=eager, verbose=0)
        if name == "out":
            with pytest.raises(ValueError, match=message):
                net.predict(good_x())


def test_errors_in_a_user_layer_name_it(backend):
    class Wrong(fnn.Layer):
        def forward(self, k, x, out, saved):
            out[...] = x if not saved.training or self.good else x[:, :1, None]

        def backward(self, k, dout, x, out, dx, saved):
            raise TypeError("no gradient")

    for good, message in ((False, "could not broadcast"), (True, "no gradient")):
        wrong = Wrong()
        wrong.good = good
        net = fnn.Sequential([fnn.Dense(CLASSES), wrong], seed=0)
        with (
            pytest.raises((ValueError, TypeError), match=rf"^layer 1 \(Wrong\): {message}"),
            fnn.use_backend("reference"),
        ):
            net.fit(good_x(), good_y(), verbose=0)


@pytest.mark.parametrize("name", ["", "a.b", "forward", "a b", "3", "weights", "index", "label"])
def test_bad_names_of_weights(name):
    class Wrong(fnn.Layer):
        def build(self, input_shape):
            self.add_weight(name, input_shape, "zeros")
            return input_shape

    with pytest.raises(ValueError, match=rf"^layer 0 \(Wrong\): name of a weight: got '{name}'"):
        fnn.Sequential([Wrong()], 3)


def test_pandas_like_and_scipy_like_inputs():
    class Frame:
        def __array__(self, dtype=None, copy=None):
            return good_x()

    class Sparse:
        def toarray(self):
            return good_x()

    np.testing.assert_array_equal(model().predict(Frame()), model().predict(good_x()))
    with pytest.raises(TypeError, match=r"^x: got a sparse Sparse, expected a dense array"):
        model().predict(Sparse())


def at_odd_address(array):
    shifted = np.frombuffer(b"\0" + array.tobytes(), np.uint8)[1:].view(array.dtype)
    return shifted.reshape(array.shape)


def test_good_input_in_odd_forms_is_taken(backend):
    wanted = model().evaluate(good_x(), good_y())
    y32 = good_y().astype(np.int32)
    for x in (
        good_x()[::-1].copy()[::-1],
        good_x().astype(">f8"),
        at_odd_address(good_x()),
        good_x().tolist(),
    ):
        for y in (y32.astype(np.uint8), y32.astype(">i8"), at_odd_address(y32), y32.tolist()):
            model().fit(x, y, validation_data=(x, y), verbose=0)
            assert model().evaluate(x, y) == pytest.approx(wanted, rel=1e-6)

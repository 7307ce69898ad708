"""Figures hold what they are given, change nothing outside themselves, and refuse bad input.

Owns what can be read from a figure's parts; how it looks is left to the eye.
"""

import io

import numpy as np
import pytest

import fastnn as fnn
from fastnn import plots

pytest.importorskip("matplotlib")

from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

X = np.random.default_rng(0).random((12, 8, 8)).astype(np.float32)
Y = np.arange(12) % 10
NAMES = [f"name {i}" for i in range(10)]


def history(epochs=4, validation=True, scale=1.0):
    made = fnn.History()
    for epoch in range(1, epochs + 1):
        figures = {"loss": scale / epoch, "accuracy": 1 - scale / epoch}
        if validation:
            figures |= {"val_loss": 1.1 * scale / epoch, "val_accuracy": 0.9 - scale / epoch}
        made.add_epoch(figures, samples=10, seconds=1.0)
        made.add_iteration({"iteration": 100 * epoch, "loss": scale / epoch, "val_loss": 0.5})
    return made


CALLS = {
    "curves": lambda: plots.curves(history()),
    "curves of several": lambda: plots.curves({"a": history(), "b": history(2)}, "accuracy"),
    "confusion_matrix": lambda: plots.confusion_matrix([[5, 1], [0, 3]], ["a", "b"]),
    "predictions": lambda: plots.predictions(X, Y, Y[::-1], NAMES),
    "filters": lambda: plots.filters(np.ones((3, 3, 2, 4)) - 0.5),
    "feature_maps": lambda: plots.feature_maps(np.ones((1, 5, 6, 4), np.float32)),
    "reconstructions": lambda: plots.reconstructions(X, X / 2),
    "bars": lambda: plots.bars({"a": 1.0, "b": 2}),
    "bars in groups": lambda: plots.bars({"a": {"x": 1.0, "y": 2}, "b": {"y": 3}}),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_figure_is_drawn_and_nothing_else_changes(name):
    before = dict(rcParams)
    made = CALLS[name]()
    assert isinstance(made, Axes if name.split()[0] in AXES else Figure)
    figure = made.figure if isinstance(made, Axes) else made
    file = io.BytesIO()
    figure.savefig(file, dpi=50)
    assert file.getvalue()[:4] == b"\x89PNG"
    assert dict(rcParams) == before


def test_every_function_is_tested():
    assert {name.split()[0] for name in CALLS} == set(plots.__all__)


def test_pyplot_is_left_alone(run_python):
    out = run_python(
        "import sys, numpy as np, fastnn as fnn\n"
        "print('matplotlib' in sys.modules)\n"
        "fnn.plots\n"
        "print('matplotlib' in sys.modules)\n"
        "fnn.plots.bars({'a': 1.0}).figure.savefig('/dev/null', format='png')\n"
        "fnn.plots.filters(np.ones((3, 3, 1, 4)))\n"
        "print('matplotlib.pyplot' in sys.modules)\n"
        "import matplotlib.pyplot as plt\n"
        "fnn.plots.bars({'a': 1.0})\n"
        "print(plt.get_fignums())"
    )
    assert out.split("\n")[:4] == ["False", "False", "False", "[]"]


def test_without_matplotlib_the_error_says_what_to_install(run_python):
    out = run_python(
        "import sys\n"
        "sys.modules['matplotlib'] = sys.modules['matplotlib.figure'] = None\n"
        "from fastnn import plots\n"
        "for call in (lambda: plots.bars({'a': 1.0}), lambda: plots.filters([[1.0]])):\n"
        "    try:\n"
        "        call()\n"
        "    except ImportError as error:\n"
        "        print(error)"
    )
    assert out == 'fastnn.plots needs matplotlib: pip install "fastnn[plot]"\n' * 2


# ---- curves --------------------------------------------------------------------------------------


def drawn(ax):
    return [(line.get_label(), line.get_linestyle(), *line.get_data()) for line in ax.get_lines()]


def test_curves_of_one_run():
    run = history()
    (train, solid, epochs, loss), (validation, dashed, _, val_loss) = drawn(plots.curves(run))
    assert (train, solid, validation, dashed) == ("training", "-", "validation", "--")
    assert list(epochs) == [1, 2, 3, 4]
    assert list(loss) == run["loss"] and list(val_loss) == run["val_loss"]
    (_, _, _, accuracy), _ = drawn(plots.curves(run, "accuracy"))
    assert list(accuracy) == run["accuracy"]


def test_curves_of_several_runs():
    ax = plots.curves({"a": history(), "b": history(2, validation=False)})
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["a", "b", "training", "validation"]
    lines = [line for line in ax.get_lines() if len(line.get_xdata())]
    assert [line.get_linestyle() for line in lines] == ["-", "--", "-"]
    assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()


def test_the_legend_of_many_runs_is_beside_their_curves():
    for runs in (4, 5):
        ax = plots.curves({str(i): history() for i in range(runs)})
        ax.figure.draw_without_rendering()
        beside = ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1
        assert beside == (runs > 4)


def test_runs_differ_in_colour_or_marker():
    ax = plots.curves({str(i): history(2, validation=False) for i in range(21)})
    assert len({(line.get_color(), line.get_marker()) for line in ax.get_lines()}) == 21


def test_curves_by_iteration():
    ax = plots.curves(history(), by="iteration")
    (_, _, at, loss), _ = drawn(ax)
    assert list(at) == [100, 200, 300, 400] and list(loss) == history()["loss"]
    assert ax.get_xlabel() == "iteration"


def test_curves_of_an_interrupted_run_and_of_one_epoch():
    run = history()
    run.add({"loss": 0.1})  # interrupted while it validated
    assert [len(y) for *_, y in drawn(plots.curves(run))] == [5, 4]
    assert plots.curves(history(1)).get_lines()[0].get_marker() not in ("", "None")


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 40])
def test_ticks_of_epochs_are_whole(epochs):
    ax = plots.curves(history(epochs))
    assert all(tick == round(tick) for tick in ax.get_xticks())


AXES = {
    "curves": lambda ax: plots.curves(history(), ax=ax),
    "confusion_matrix": lambda ax: plots.confusion_matrix([[1]], ax=ax),
    "bars": lambda ax: plots.bars({"a": 1.0}, ax=ax),
}


@pytest.mark.parametrize("name", AXES)
def test_into_given_axes(name):
    ax = Figure().add_subplot()
    assert AXES[name](ax) is ax and ax.has_data()
    with pytest.raises(TypeError, match=r"ax: got .* expected matplotlib Axes"):
        AXES[name](Figure())


# ---- matrices and bars ---------------------------------------------------------------------------


def test_confusion_matrix():
    matrix = [[8, 0, 2], [1, 5, 4], [0, 0, 10]]
    ax = plots.confusion_matrix(matrix, ["a", "b", "c"])
    texts = {text.get_position()[::-1]: text.get_text() for text in ax.texts}
    assert texts == {(i, j): str(n) for (i, j), n in np.ndenumerate(matrix) if n}
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b", "c"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted class", "true class")
    assert ax.get_title() == "76.67% of 30 right"
    right, wrong = (image.get_array() for image in ax.images)
    np.testing.assert_allclose(right.compressed(), [0.8, 0.5, 1])  # shares of the classes
    np.testing.assert_allclose(wrong.compressed(), [0.5, 0.25, 1])  # of the most frequent mistake


def test_confusion_matrix_of_many_classes_has_no_counts():
    assert not plots.confusion_matrix(np.ones((31, 31), int)).texts


def test_bars():
    ax = plots.bars({"a": {"x": 1.5, "y": 2}, "b": {"y": -3}})
    assert [bar.get_width() for bar in ax.patches] == [1.5, 2, -3]
    assert ax.patches[1].get_facecolor() == ax.patches[2].get_facecolor()
    assert ax.patches[0].get_facecolor() != ax.patches[1].get_facecolor()
    assert [text.get_text() for text in ax.texts] == ["1.5", "2", "-3"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]
    assert plots.bars({"a": 1}).get_legend() is None


# ---- images --------------------------------------------------------------------------------------


def pixels(figure):
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


@pytest.mark.parametrize("shape", [(12, 8, 8), (12, 8, 8, 1), (12, 64)])
def test_predictions(shape):
    y_pred = Y.copy()
    y_pred[3] = 7
    figure = plots.predictions(X.reshape(shape), Y, y_pred, columns=5)
    np.testing.assert_array_equal(pixels(figure), X)
    titles = [axes.title for axes in figure.axes[:12]]
    assert [t.get_text() for t in titles[2:5]] == ["2 (2)", "7 (3)", "4 (4)"]
    assert [t.get_weight() == "bold" for t in titles] == [i == 3 for i in range(12)]
    framed = [axes.spines["left"].get_visible() for axes in figure.axes[:12]]
    assert framed == [i == 3 for i in range(12)]
    assert not any(axes.axison for axes in figure.axes[12:])  # the rest of the third row


def test_predictions_with_names():
    figure = plots.predictions(X, Y, Y[::-1], NAMES, columns=12)
    assert figure.axes[0].get_title() == "name 1\n(name 0)"


def test_colours():
    x = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    figure = plots.predictions(x, [0, 1], [0, 1])
    scaled = (x - x.min()) / np.ptp(x)
    np.testing.assert_allclose(pixels(figure), scaled, atol=1e-12)
    dark = plots.reconstructions(x, x / 510)
    assert np.max(pixels(dark)[2:]) <= 0.5


def test_filters_of_a_convolution():
    w = np.random.default_rng(0).normal(size=(3, 2, 4, 5))
    shown = pixels(plots.filters(w))
    assert len(shown) == 20
    for i in range(5):
        for c in range(4):
            np.testing.assert_array_equal(shown[4 * i + c], w[:, :, c, i])


def test_filters_of_a_dense_layer():
    w = np.random.default_rng(0).normal(size=(9, 4))
    figure = plots.filters(w)
    np.testing.assert_array_equal(pixels(figure)[1], w[:, 1].reshape(3, 3))
    low, high = figure.axes[0].images[0].get_clim()
    assert -low == high == abs(w).max()


@pytest.mark.parametrize("shape", [(6, 5, 3), (1, 6, 5, 3)])
def test_feature_maps(shape):
    maps = np.random.default_rng(0).random(shape)
    figure = plots.feature_maps(maps)
    np.testing.assert_array_equal(pixels(figure)[2], maps.reshape(6, 5, 3)[:, :, 2])
    assert figure.get_suptitle() == "3 feature maps, 6×5"


def test_reconstructions():
    rows = {"noisy": X + 0.2, "output": X / 2}
    figure = plots.reconstructions(X, rows, columns=7)
    np.testing.assert_allclose(pixels(figure), np.concatenate([X[:7], X[:7] + 0.2, X[:7] / 2]))
    assert [axes.get_ylabel() for axes in figure.axes[::7]] == ["input", "noisy", "output"]
    assert {axes.images[0].get_clim() for axes in figure.axes} == {(X[:7].min(), X[:7].max())}
    assert len(plots.reconstructions(X[:3], X[:3], columns=7).axes) == 6


def test_uint8_images_are_drawn_as_the_model_sees_them():
    x = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    before, after = pixels(plots.reconstructions(x, x / 255))
    np.testing.assert_allclose(before, after, rtol=1e-6)
    assert after.max() == 1


def test_channels_first():
    first = {"data_format": "channels_first"}
    for channels in (1, 3):
        x = np.random.default_rng(0).random((4, 5, 6, channels))
        turned = x.transpose(0, 3, 1, 2)
        for last, got in (
            (plots.predictions(x, Y[:4], Y[:4]), plots.predictions(turned, Y[:4], Y[:4], **first)),
            (plots.reconstructions(x, x / 2), plots.reconstructions(turned, turned / 2, **first)),
            (plots.feature_maps(x[:1]), plots.feature_maps(turned[:1], **first)),
            (plots.feature_maps(x[0]), plots.feature_maps(turned[0], **first)),
        ):
            np.testing.assert_array_equal(pixels(got), pixels(last))
            assert got.get_suptitle() == last.get_suptitle()


@pytest.mark.filterwarnings("error")  # what is divided by 0 is drawn all the same
def test_constant_images():
    for value in (0, 1):
        figure = plots.filters(np.full((3, 3, 1, 2), value))
        figure.savefig(io.BytesIO())
        plots.predictions(np.full((1, 4, 4, 3), value), [0], [0]).savefig(io.BytesIO())


FIGURES = {
    "predictions": lambda figure: plots.predictions(X, Y, Y, figure=figure),
    "filters": lambda figure: plots.filters(np.ones((3, 3, 1, 2)), figure=figure),
    "feature_maps": lambda figure: plots.feature_maps(X, figure=figure),
    "reconstructions": lambda figure: plots.reconstructions(X, X, figure=figure),
}


@pytest.mark.parametrize("name", FIGURES)
def test_into_a_part_of_a_figure(name):
    whole = Figure(layout="constrained")
    left, right = whole.subfigures(1, 2)
    assert FIGURES[name](left) is left
    assert left.axes and not right.axes
    whole.savefig(io.BytesIO())
    with pytest.raises(TypeError, match=r"figure: got .* expected matplotlib Figure or SubFigure"):
        FIGURES[name]("figure")


# ---- bad input -----------------------------------------------------------------------------------

NAN = float("nan")
SPOILED = np.where(X == X[3, 2, 1], NAN, X)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plots.curves([1, 2]), TypeError, r"histories: got \[1, 2\], expected History"),
        (lambda: plots.curves({"a": [1, 2]}), TypeError, "histories: got .* expected History"),
        (lambda: plots.curves({}), ValueError, "histories: got none"),
        (lambda: plots.curves(fnn.History()), ValueError, "histories: got no figures by epoch, "),
        (lambda: plots.curves(history(), "f1"), ValueError, "metric: got 'f1', .*'val_accuracy'"),
        (
            lambda: plots.curves({"a": history(), "b": fnn.History()}),
            ValueError,
            "histories: got no figures by epoch of 'b'",
        ),
        (
            lambda: plots.curves(fnn.History(), by="iteration"),
            ValueError,
            "histories: got no figures by iteration, .*validation_every",
        ),
        (lambda: plots.curves(history(), 3), TypeError, "metric: got 3, expected a name"),
        (lambda: plots.curves(history(), by="step"), ValueError, "by: got 'step'"),
        (lambda: plots.confusion_matrix([1, 2]), ValueError, r"matrix: got shape \(2,\)"),
        (lambda: plots.confusion_matrix(np.ones((2, 3), int)), ValueError, r"expected \(C, C\)"),
        (lambda: plots.confusion_matrix(np.ones((0, 0), int)), ValueError, r"shape \(0, 0\)"),
        (lambda: plots.confusion_matrix([[0.5]]), TypeError, "matrix: got dtype float64"),
        (lambda: plots.confusion_matrix([["a"]]), TypeError, "matrix: .* expected numbers"),
        (lambda: plots.confusion_matrix([[-1]]), ValueError, "matrix: got -1"),
        (lambda: plots.confusion_matrix([[0]]), ValueError, "matrix: got 0 .* not all 0"),
        (lambda: plots.confusion_matrix([[1]], []), ValueError, "names: got 0, expected 1"),
        (lambda: plots.confusion_matrix([[1]], "a"), TypeError, "names: got 'a'"),
        (lambda: plots.predictions(X[0, 0], Y, Y), ValueError, r"images: got shape \(8,\)"),
        (lambda: plots.predictions(X[:, :, :, None, None], Y, Y), ValueError, "images: got shape"),
        (lambda: plots.predictions(np.ones((12, 10)), Y, Y), ValueError, r"shape \(12, 10\)"),
        (lambda: plots.predictions(X[:0], Y, Y), ValueError, r"shape \(0, 8, 8\), .* not empty"),
        (lambda: plots.predictions(np.ones((401, 4)), Y, Y), ValueError, "401 images, .* most 400"),
        (lambda: plots.predictions(SPOILED, Y, Y), ValueError, "images: got nan in row 3"),
        (lambda: plots.predictions(X.astype(str), Y, Y), TypeError, "images: .* expected numbers"),
        (lambda: plots.predictions(X, Y[:3], Y[:3]), ValueError, "y: got 3 labels, expected 12"),
        (lambda: plots.predictions(X, Y, Y[:3]), ValueError, "y_pred: got 3 labels"),
        (lambda: plots.predictions(X, Y + 0.5, Y), TypeError, "y: .* expected integers"),
        (lambda: plots.predictions(X, Y - 1, Y), ValueError, "y: got label -1"),
        (lambda: plots.predictions(X, Y, Y, ["a"]), ValueError, r"labels in \[0, 1\)"),
        (lambda: plots.predictions(X, Y, Y, columns=0), ValueError, "columns: got 0"),
        (lambda: plots.predictions(X, Y, Y, columns=2.5), TypeError, "columns: got 2.5"),
        (lambda: plots.filters(np.ones((10, 4))), ValueError, r"w: got shape .*a square number"),
        (lambda: plots.filters(np.ones(9)), ValueError, r"w: got shape \(9,\)"),
        (lambda: plots.filters(np.ones((0, 4))), ValueError, r"w: got shape \(0, 4\)"),
        (lambda: plots.filters(np.full((3, 3, 1, 1), NAN)), ValueError, "w: got nan"),
        (lambda: plots.filters(np.ones((1, 500))), ValueError, "w: got 500 images, .* slice"),
        (lambda: plots.feature_maps(np.ones((2, 4, 4, 3))), ValueError, r"maps: got shape \(2, 4"),
        (lambda: plots.feature_maps(np.ones((4, 4))), ValueError, r"maps: got shape \(4, 4\)"),
        (lambda: plots.feature_maps(np.ones((4, 4, 0))), ValueError, "maps: got shape"),
        (lambda: plots.feature_maps(np.full((2, 2, 1), NAN)), ValueError, "maps: got nan"),
        (lambda: plots.reconstructions(X, X[:, :4]), ValueError, r"outputs: got shape \(12, 4, 8"),
        (lambda: plots.reconstructions(X, X[:5]), ValueError, "outputs: got shape .* that of imag"),
        (lambda: plots.reconstructions(X, {"a": None}), TypeError, r"outputs\['a'\]: "),
        (lambda: plots.reconstructions(X, X, columns=0), ValueError, "columns: got 0"),
        (lambda: plots.feature_maps(X, data_format="x"), ValueError, "data_format: got 'x', exp"),
        (lambda: plots.predictions(X, Y, Y, data_format=1), ValueError, "data_format: got 1, exp"),
        (
            lambda: plots.feature_maps(X[0], data_format="channels_first"),
            ValueError,
            r"expected \(C, H, W\) or \(1, C, H, W\) for data_format='channels_first'",
        ),
        (
            lambda: plots.predictions(X[:, None, :3], Y, Y),
            ValueError,
            r"expected .*\(N, H, W, 3\), .* for data_format='channels_last'",
        ),
        (
            lambda: plots.reconstructions(X[..., None], X, data_format="channels_first"),
            ValueError,
            r"images: .* \(N, 3, H, W\), .* for data_format='channels_first'",
        ),
        (lambda: plots.bars([1, 2]), TypeError, r"values: got \[1, 2\], expected"),
        (lambda: plots.bars({}), ValueError, "values: got none"),
        (lambda: plots.bars({"a": {}}), ValueError, "values: got none"),
        (lambda: plots.bars({"a": "b"}), TypeError, r"values\['a'\]: got 'b'"),
        (lambda: plots.bars({"a": NAN}), ValueError, r"values\['a'\]: got nan"),
        (lambda: plots.bars({"a": {"b": NAN}}), ValueError, r"values\['a'\]\['b'\]: got nan"),
        (lambda: plots.bars({"a": {"b": 1}, "c": 2}), TypeError, r"values\['c'\]: got 2, expected"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()

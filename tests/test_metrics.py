"""Metrics against scikit-learn, against numbers made by hand, and with bad input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastnn import metrics

pytestmark = pytest.mark.filterwarnings("error")  # 0 / 0 is no reason for one

Y = [0, 1, 2, 2, 2, 1, 0, 0]
PREDICTED = [0, 2, 2, 2, 1, 1, 0, 1]


@st.composite
def labels(draw):
    """True and predicted classes, some of which may be missing in one or both."""
    classes = draw(st.integers(2, 12))
    n = draw(st.integers(1, 60))
    label = st.integers(0, classes - 1)
    pair = st.lists(label, min_size=n, max_size=n)
    return classes, np.array(draw(pair)), np.array(draw(pair))


def test_numbers_by_hand():
    assert metrics.accuracy(Y, PREDICTED) == 5 / 8
    assert metrics.accuracy([2**30, 3], [2**30, 4]) == 0.5
    np.testing.assert_array_equal(
        metrics.confusion_matrix(Y, PREDICTED), [[2, 1, 0], [0, 1, 1], [0, 1, 2]]
    )
    precision, recall, f1, support = metrics.precision_recall_f1(Y, PREDICTED)
    np.testing.assert_allclose(precision, [1, 1 / 3, 2 / 3])
    np.testing.assert_allclose(recall, [2 / 3, 1 / 2, 2 / 3])
    np.testing.assert_allclose(f1, [4 / 5, 2 / 5, 2 / 3])
    np.testing.assert_array_equal(support, [3, 2, 3])


def test_types():
    matrix = metrics.confusion_matrix(np.array(Y, np.uint8), np.array(PREDICTED, ">i8"))
    assert matrix.dtype == np.int64 and matrix.sum() == len(Y)
    *figures, support = metrics.precision_recall_f1(Y, PREDICTED)
    assert [a.dtype for a in figures] == [np.float64] * 3 and support.dtype == np.int64
    assert type(metrics.accuracy(Y, PREDICTED)) is type(metrics.r2_score(Y, PREDICTED)) is float


def test_classes_that_do_not_occur():
    assert metrics.confusion_matrix([1], [0], n_classes=4).tolist() == [
        [0, 0, 0, 0],
        [1, 0, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]
    for figure in metrics.precision_recall_f1([1], [0], n_classes=4):
        assert figure.shape == (4,)
        assert figure[2:].tolist() == [0, 0]


@settings(max_examples=150, deadline=None)
@given(labels(), st.integers(0, 15))
def test_equal_to_scikit_learn(drawn, digits):
    theirs = pytest.importorskip("sklearn.metrics")
    classes, y, y_pred = drawn
    every = range(classes)
    assert metrics.accuracy(y, y_pred) == theirs.accuracy_score(y, y_pred)
    np.testing.assert_array_equal(
        metrics.confusion_matrix(y, y_pred, classes),
        theirs.confusion_matrix(y, y_pred, labels=every),
    )
    expected = theirs.precision_recall_fscore_support(y, y_pred, labels=every, zero_division=0)
    for ours, figure in zip(metrics.precision_recall_f1(y, y_pred, classes), expected, strict=True):
        np.testing.assert_array_equal(ours, figure)

    assert metrics.classification_report(y, y_pred, digits=digits) == theirs.classification_report(
        y, y_pred, digits=digits, zero_division=0
    )
    names = [f"{'long ' * c}name" for c in every]
    assert metrics.classification_report(y, y_pred, names, digits) == theirs.classification_report(
        y, y_pred, labels=every, target_names=names, digits=digits, zero_division=0
    )


def test_report_of_a_network_equals_scikit_learns(digits):
    theirs = pytest.importorskip("sklearn.metrics")
    x, y = digits
    y_pred = np.argmin(((x[:, None] - [x[y == c].mean(axis=0) for c in range(10)]) ** 2).sum(2), 1)
    assert 0.8 < metrics.accuracy(y, y_pred) < 1
    for figures in (2, 4):
        assert metrics.classification_report(
            y, y_pred, digits=figures
        ) == theirs.classification_report(y, y_pred, digits=figures)


def test_top_k():
    scores = np.array([[0.1, 0.5, 0.4], [0.3, 0.3, 0.4], [0.2, 0.2, 0.2]])
    y = [2, 1, 1]
    assert metrics.top_k_accuracy(y, scores, k=1) == 0
    assert metrics.top_k_accuracy(y, scores, k=2) == pytest.approx(2 / 3)
    assert metrics.top_k_accuracy(y, scores, k=3) == 1


def test_top_1_breaks_ties_as_argmax_does():
    rng = np.random.default_rng(0)
    scores, y = rng.integers(0, 3, (200, 6)), rng.integers(0, 6, 200)
    expected = metrics.accuracy(y, scores.argmax(axis=1))
    assert metrics.top_k_accuracy(y, scores, k=1) == expected


def test_top_k_equals_scikit_learns():
    theirs = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    scores, y = rng.normal(size=(300, 10)).astype(np.float32), rng.integers(0, 10, 300)
    for k in range(1, 10):
        assert metrics.top_k_accuracy(y, scores, k) == pytest.approx(
            theirs.top_k_accuracy_score(y, scores, k=k), abs=1e-12
        )
    assert metrics.top_k_accuracy(y, scores) == metrics.top_k_accuracy(y, scores, 5)


def test_frequent_confusions():
    y = [4] * 5 + [3] * 4 + [8] * 3
    y_pred = [9, 9, 9, 4, 4, 5, 5, 3, 3, 8, 5, 5]
    assert metrics.frequent_confusions(y, y_pred) == ["4→9: 3", "3→5: 2", "8→5: 2"]
    assert metrics.frequent_confusions(y, y_pred, n=2) == ["4→9: 3", "3→5: 2"]
    names = "zero one two three four five six seven eight nine".split()
    assert metrics.frequent_confusions(y, y_pred, n=1, names=names) == ["four→nine: 3"]
    assert metrics.frequent_confusions(y, y) == []


@pytest.mark.parametrize("shape", [(9,), (9, 1), (9, 4)])
def test_r2_equals_scikit_learns(shape):
    theirs = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    y = rng.normal(size=shape)
    y_pred = y + rng.normal(size=shape)
    assert metrics.r2_score(y, y_pred) == pytest.approx(theirs.r2_score(y, y_pred), rel=1e-12)
    assert metrics.r2_score(y, y) == 1
    mean = np.broadcast_to(y.mean(axis=0), shape)
    assert metrics.r2_score(y, mean) == pytest.approx(0, abs=1e-12)


def test_r2_of_constant_targets():
    theirs = pytest.importorskip("sklearn.metrics")
    y = np.array([[1.0, 2.0, 5.0], [1.0, 3.0, 5.0]])
    y_pred = np.array([[1.0, 2.5, 5.0], [1.0, 3.0, 4.0]])
    assert metrics.r2_score(y, y_pred) == theirs.r2_score(y, y_pred) == 0.5  # 1, 0.5 and 0
    assert metrics.r2_score([1.0, 2.0], [[1.0], [2.0]]) == 1
    assert metrics.r2_score([0.1, 0.1, 0.1], [0.2, 0.1, 0.1]) == 0  # the mean is not quite 0.1
    assert metrics.r2_score([1e200, 2e200], [1e200, 3e200]) == metrics.r2_score([1, 2], [1, 3])


NAN, INF = float("nan"), float("inf")
SCORES = np.ones((3, 4))
PAIRS = [
    metrics.accuracy,
    metrics.confusion_matrix,
    metrics.precision_recall_f1,
    metrics.classification_report,
    metrics.frequent_confusions,
]
BAD_PAIRS = {
    "strings": (["a"], [0], TypeError, "^y: .* expected numbers"),
    "None": ([0], None, TypeError, "^y_pred: .* expected numbers"),
    "floats": ([0.0], [0], TypeError, r"^y: .* float64, expected integers; use y\.astype"),
    "bools": ([0], [True], TypeError, "^y_pred: .* bool, expected integers"),
    "none": ([], [], ValueError, r"^y: got shape \(0,\), expected \(N,\), not empty"),
    "0-d": (1, [1], ValueError, r"^y: got shape \(\), expected \(N,\)"),
    "one-hot": (np.eye(3, dtype=int), [0, 1, 2], ValueError, r"^y: got shape \(3, 3\)"),
    "scores": ([0, 1, 2], SCORES, ValueError, r"^y_pred: got shape \(3, 4\).* take argmax\(axis="),
    "lengths": ([0, 1], [0, 1, 2], ValueError, "^y_pred: got 3 labels, expected 2, as in y"),
    "negative": ([0, -1], [0, 0], ValueError, "^y: got label -1 in row 1"),
    "huge": ([0], [2**40], ValueError, "^y_pred: got label 1099511627776 in row 0"),
    "ragged": ([[0], [1, 2]], [0, 0], ValueError, "^y: got a list that is no rectangular array"),
}


@pytest.mark.parametrize("metric", PAIRS, ids=lambda metric: metric.__name__)
@pytest.mark.parametrize("case", BAD_PAIRS)
def test_bad_labels(metric, case):
    y, y_pred, error, message = BAD_PAIRS[case]
    with pytest.raises(error, match=message):
        metric(y, y_pred)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: metrics.confusion_matrix(Y, Y, 2), ValueError, r"label 2 in row 2, .* \[0, 2\)"),
        (lambda: metrics.confusion_matrix(Y, Y, 0), ValueError, "n_classes: got 0, expected"),
        (lambda: metrics.confusion_matrix(Y, Y, 3.0), TypeError, "n_classes: got 3.0"),
        (lambda: metrics.confusion_matrix(Y, Y, 2**40), ValueError, "n_classes: got 10995"),
        (lambda: metrics.confusion_matrix(Y, Y, 2**20), ValueError, "does not fit in memory"),
        (lambda: metrics.precision_recall_f1(Y, Y, 2), ValueError, r"in \[0, 2\)"),
        (lambda: metrics.classification_report(Y, Y, ["a", "b"]), ValueError, r"in \[0, 2\)"),
        (lambda: metrics.classification_report(Y, Y, "abc"), TypeError, "names: got 'abc'"),
        (lambda: metrics.classification_report(Y, Y, [1, 2, 3]), TypeError, "sequence of str"),
        (lambda: metrics.classification_report(Y, Y, []), ValueError, "names: got 0, expected 1"),
        (lambda: metrics.classification_report(Y, Y, digits=-1), ValueError, "digits: got -1"),
        (lambda: metrics.frequent_confusions(Y, Y, 0), ValueError, "n: got 0"),
        (lambda: metrics.frequent_confusions(Y, Y, names=["a"]), ValueError, r"in \[0, 1\)"),
        (lambda: metrics.top_k_accuracy([0, 1, 2], SCORES, 5), ValueError, "k: got 5, .* <= 4"),
        (lambda: metrics.top_k_accuracy([0, 1, 2], SCORES), ValueError, "k: got 5, .* <= 4"),
        (lambda: metrics.top_k_accuracy([0, 1, 2], SCORES, 0), ValueError, "k: got 0, .* >= 1"),
        (lambda: metrics.top_k_accuracy([0, 1, 4], SCORES, 2), ValueError, "y: got label 4 in row"),
        (lambda: metrics.top_k_accuracy([0, 1], SCORES, 2), ValueError, "y: got 2 labels, exp.* 3"),
        (lambda: metrics.top_k_accuracy([0], SCORES[0], 2), ValueError, r"scores: got shape \(4,"),
        (lambda: metrics.top_k_accuracy([], SCORES[:0], 2), ValueError, "scores: .* not empty"),
        (lambda: metrics.top_k_accuracy([0, 1, 2], SCORES * NAN, 2), ValueError, "scores: got nan"),
        (lambda: metrics.top_k_accuracy([0, 1, 2], SCORES * INF, 2), ValueError, "scores: got inf"),
        (lambda: metrics.r2_score([1.0], [1.0]), ValueError, "y: got shape .* at least two rows"),
        (lambda: metrics.r2_score([1.0, NAN], [1.0, 2.0]), ValueError, "y: got nan in row 1"),
        (lambda: metrics.r2_score([1.0, 2.0], [INF, 2.0]), ValueError, "y_pred: got inf in row 0"),
        (lambda: metrics.r2_score([1.0, 2.0], np.ones((2, 2))), ValueError, r"expected .* \(2,\)"),
        (lambda: metrics.r2_score(np.ones((2, 2, 2)), SCORES), ValueError, r"y: got .* \(N, K\)"),
        (lambda: metrics.r2_score(["a", "b"], [1, 2]), TypeError, "y: .* expected numbers"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_arguments_are_left_alone():
    y, scores = np.array(Y), np.random.default_rng(0).normal(size=(8, 3))
    y.setflags(write=False)
    scores.setflags(write=False)
    metrics.top_k_accuracy(y, scores, 2)
    metrics.classification_report(y, y[::-1])
    metrics.r2_score(y, scores[:, 0])

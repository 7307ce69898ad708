"""Tests of the division of rows, and of labels as rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastnn import datasets


@settings(max_examples=100, deadline=None)
@given(
    n=st.integers(2, 300),
    classes=st.integers(1, 12),
    share=st.floats(0, 1, exclude_min=True, exclude_max=True),
    seed=st.integers(0, 2**64),
)
def test_split_partitions_the_rows(n, classes, share, seed):
    x = np.arange(2 * n).reshape(n, 2)
    y = np.arange(n) % min(classes, n // 2)
    for stratify in (False, True, y.tolist()):
        parts = datasets.train_test_split(x, y, test_size=share, seed=seed, stratify=stratify)
        x_train, x_test, y_train, y_test = parts
        assert len(x_test) == min(max(round(n * share), 1), n - 1)
        assert sorted(np.concatenate([x_train, x_test])[:, 0].tolist()) == x[:, 0].tolist()
        for a, b in ((x_train, y_train), (x_test, y_test)):
            assert np.array_equal(y[a[:, 0] // 2], b)
        if stratify is not False:
            want = np.bincount(y) * len(y_test) / n
            assert np.abs(np.bincount(y_test, minlength=len(want)) - want).max() < 1
        again = datasets.train_test_split(x, y, test_size=share, seed=seed, stratify=stratify)
        assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_split_shuffles():
    x = np.arange(1000)
    y = np.repeat(np.arange(10), 100)
    for stratify in (False, True):
        _, test, _, labels = datasets.train_test_split(x, y, seed=0, stratify=stratify)
        assert (np.diff(test) < 0).any() and (np.diff(labels) < 0).any()
        _, other, _, _ = datasets.train_test_split(x, y, seed=1, stratify=stratify)
        assert set(test.tolist()) != set(other.tolist())
    assert not np.array_equal(
        datasets.train_test_split(x)[0], datasets.train_test_split(x)[0]
    )  # no seed: 1 in 1000! to fail


def test_split_of_other_things():
    a, b = datasets.train_test_split([1.5, 2.5, 3.5, 4.5], seed=0, test_size=1)
    assert len(a) == 3 and len(b) == 1
    parts = datasets.train_test_split([1, 2], ["a", "b"], np.eye(2), seed=0)
    assert [part.shape for part in parts] == [(1,), (1,), (1,), (1,), (1, 2), (1, 2)]
    for dtype in (str, object):
        words = np.array(["cat", "dog"] * 10, dtype)
        _, test = datasets.train_test_split(words, test_size=np.float32(0.5), stratify=np.True_)
        assert sorted(test.tolist()) == ["cat"] * 5 + ["dog"] * 5
    x = np.arange(8, dtype=">i4")[::-1]
    x.flags.writeable = False
    a, _ = datasets.train_test_split(x, seed=np.int64(3), test_size=np.uint8(2))
    assert a.dtype == x.dtype and len(a) == 6 and a.flags.writeable
    assert x.tolist() == list(range(8))[::-1]


TEN = np.arange(10)
BAD_SPLITS = [
    ((), {}, ValueError, "arrays"),
    ((5,), {}, ValueError, "array 0"),
    ((None,), {}, ValueError, "array 0"),
    (("text",), {}, ValueError, "array 0"),
    (([[1], [2, 3]],), {}, ValueError, "array 0"),
    (([],), {}, ValueError, "array 0"),
    (([1],), {}, ValueError, "array 0"),
    ((TEN, TEN[:9]), {}, ValueError, "array 1"),
    ((TEN, 3), {}, ValueError, "array 1"),
    ((TEN,), {"test_size": 0}, ValueError, "test_size"),
    ((TEN,), {"test_size": 10}, ValueError, "test_size"),
    ((TEN,), {"test_size": -1}, ValueError, "test_size"),
    ((TEN,), {"test_size": 2**70}, ValueError, "test_size"),
    ((TEN,), {"test_size": 0.0}, ValueError, "test_size"),
    ((TEN,), {"test_size": 1.0}, ValueError, "test_size"),
    ((TEN,), {"test_size": -0.1}, ValueError, "test_size"),
    ((TEN,), {"test_size": float("nan")}, ValueError, "test_size"),
    ((TEN,), {"test_size": float("inf")}, ValueError, "test_size"),
    ((TEN,), {"test_size": True}, TypeError, "test_size"),
    ((TEN,), {"test_size": None}, TypeError, "test_size"),
    ((TEN,), {"test_size": "0.2"}, TypeError, "test_size"),
    ((TEN,), {"test_size": [0.2]}, TypeError, "test_size"),
    ((TEN,), {"seed": -1}, ValueError, "seed"),
    ((TEN,), {"seed": 1.0}, TypeError, "seed"),
    ((TEN,), {"seed": "1"}, TypeError, "seed"),
    ((TEN,), {"seed": True}, TypeError, "seed"),
    ((TEN,), {"seed": [1]}, TypeError, "seed"),
    ((TEN,), {"stratify": True}, ValueError, "stratify"),
    ((TEN,), {"stratify": None}, ValueError, "stratify"),
    ((TEN,), {"stratify": 1}, ValueError, "stratify"),
    ((TEN,), {"stratify": TEN[:4] * 0}, ValueError, "stratify"),
    ((TEN,), {"stratify": np.zeros((10, 2), int)}, ValueError, "stratify"),
    ((TEN,), {"stratify": np.zeros(10)}, TypeError, "stratify"),
    ((TEN,), {"stratify": [None] * 10}, TypeError, "stratify"),
    ((np.ma.array(TEN, mask=TEN == 3),), {}, ValueError, "array 0"),
    ((TEN,), {"stratify": np.ma.array(TEN % 2, mask=TEN == 3)}, ValueError, "stratify"),
    ((TEN, np.eye(10)), {"stratify": True}, TypeError, "stratify"),
]


@pytest.mark.parametrize(("arrays", "options", "error", "name"), BAD_SPLITS)
def test_bad_splits(arrays, options, error, name):
    with pytest.raises(error, match=f"^{name}:"):
        datasets.train_test_split(*arrays, **options)


# ------------------------------------------------------------------------------ one_hot


@pytest.mark.parametrize("dtype", ["u1", "i1", "i4", ">i4", "i8", "u8"])
@pytest.mark.parametrize("classes", [None, 4, 7, np.int32(5)])
def test_one_hot(dtype, classes):
    labels = np.array([3, 0, 1, 3, 2], dtype)
    got = datasets.one_hot(labels[::-1], classes)
    assert got.dtype == np.float32 and got.flags.c_contiguous
    assert np.array_equal(got, np.eye(classes or 4, dtype=np.float32)[labels[::-1].astype(int)])


def test_one_hot_of_nothing():
    assert datasets.one_hot(np.zeros(0, int), 3).shape == (0, 3)


BAD_LABELS = [
    ([0, -1], None, ValueError, "labels"),
    ([0, -1], 3, ValueError, "labels"),
    ([0, 3], 3, ValueError, "labels"),
    ([0, 2**40], None, ValueError, "labels"),
    (np.array([2**64 - 1], np.uint64), None, ValueError, "labels"),
    (np.array([2**64 - 1], np.uint64), 3, ValueError, "labels"),
    (np.zeros(0, int), None, ValueError, "labels"),
    (3, None, ValueError, "labels"),
    ([[0], [1]], None, ValueError, "labels"),
    ([[0], [1, 2]], None, ValueError, "labels"),
    ([0.0, 1.0], None, TypeError, "labels"),
    ([0.0, float("nan")], 2, TypeError, "labels"),
    (["a"], None, TypeError, "labels"),
    (None, None, TypeError, "labels"),
    ([2**70], None, TypeError, "labels"),
    ([0], 0, ValueError, "classes"),
    ([0], -1, ValueError, "classes"),
    ([0], 2**40, ValueError, "classes"),
    ([0], 2**70, ValueError, "classes"),
    (np.zeros(2**16, int), 2**31 - 1, ValueError, "classes"),
    ([0], 2.0, TypeError, "classes"),
    ([0], "2", TypeError, "classes"),
    ([0], True, TypeError, "classes"),
]


@pytest.mark.parametrize(("labels", "classes", "error", "name"), BAD_LABELS)
def test_one_hot_bad_input(labels, classes, error, name):
    with pytest.raises(error, match=f"^{name}:"):
        datasets.one_hot(labels, classes)

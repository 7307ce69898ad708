"""Tests of the scaling to mean 0 and deviation 1."""

import numpy as np
import pytest
from test_idx import MIB, peak_memory

from fastnn import datasets


@pytest.mark.parametrize("axis", [0, None, (0, 1), (0, 2), (2, 0), (0, 1, 2), np.int64(0)])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f8", "i4", "u2", "i1"])
def test_standardize_equals_numpy(axis, dtype):
    rng = np.random.default_rng(5)
    x = rng.normal(3, 20, (700, 20, 11)).clip(0 if dtype == "u2" else -100, 100).astype(dtype)
    exact = x.astype(np.float64)
    mean, std = exact.mean(axis, keepdims=True), exact.std(axis, keepdims=True)
    copy = x.copy()
    scale = datasets.Standardize(axis)
    got = scale.fit_transform(x)
    assert got.dtype == np.float32 and got.shape == x.shape
    np.testing.assert_allclose(got, (exact - mean) / std, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(scale.inverse_transform(got), exact, rtol=1e-5, atol=1e-4)
    assert scale.mean.dtype == scale.std.dtype == np.float64
    assert scale.mean.shape == (() if axis is None else mean.shape[1:])
    np.testing.assert_allclose(np.squeeze(scale.std), np.squeeze(std), rtol=1e-12)
    assert np.array_equal(x, copy)
    assert np.array_equal(scale.transform(x[::-1])[::-1], got)
    assert np.array_equal(scale.transform(np.asfortranarray(x)), got)
    assert scale.transform(x[:0]).shape == (0, 20, 11)


def test_standardize_takes_uint8_for_images():
    x = np.random.default_rng(0).integers(0, 256, (500, 8, 8), dtype=np.uint8)
    pixels = x * np.float32(1 / 255)
    for axis in (0, None):
        a, b = datasets.Standardize(axis).fit(x), datasets.Standardize(axis).fit(pixels)
        np.testing.assert_allclose(a.mean, b.mean, rtol=1e-6)
        np.testing.assert_allclose(a.transform(x), b.transform(pixels), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(a.inverse_transform(a.transform(x)), pixels, atol=1e-6)


def test_standardize_without_variance():
    x = np.full((1000, 3), 0.1)
    x[:, 1] = np.arange(1000)
    x[:, 2] = -1e-30
    scale = datasets.Standardize().fit(x)
    got = scale.transform(x)
    assert (got[:, [0, 2]] == 0).all() and abs(got[:, 1].std() - 1) < 1e-6
    assert scale.std[[0, 2]].tolist() == [1, 1]
    assert scale.transform([[0.2, 0, 0]])[0, 0] == np.float32(0.2 - 0.1)
    black = np.full((4, 2), 7, np.uint8)
    assert (datasets.Standardize().fit_transform(black) == 0).all()
    assert datasets.Standardize(None).fit([[5.0]]).transform([[6.0]]) == 1


def test_standardize_takes_rounding_for_no_variance():
    x = np.array([[0.3, 3e8], [0.1 + 0.2, 3e8], [0.3, 3e8 + 1e-4]])
    scale = datasets.Standardize().fit(x)
    assert scale.std[0] == 1 and scale.std[1] < 1
    assert abs(scale.transform(x)[:, 0]).max() < 1e-15
    assert datasets.Standardize([0, 1]).fit(x).axis == (0, 1)


def test_standardize_does_not_cancel():
    x = np.random.default_rng(0).normal([1e9, -1e9], 1, (50000, 2))
    x[0] = [-1e9, 1e9]  # the row that deviations are taken from first
    got = datasets.Standardize().fit(x)
    np.testing.assert_allclose(got.std, x.std(0), rtol=1e-9)
    x = x[1:]
    got = datasets.Standardize().fit(x)
    np.testing.assert_allclose(got.std, 1, rtol=0.02)


def test_standardize_wide_rows_and_no_features():
    x = np.random.default_rng(0).normal(size=(3, 200_000)).astype(np.float32)
    np.testing.assert_allclose(datasets.Standardize().fit_transform(x).std(0), 1, rtol=1e-4)
    assert datasets.Standardize().fit_transform(np.zeros((3, 0))).shape == (3, 0)
    assert repr(datasets.Standardize((0, 1))) == "Standardize(axis=(0, 1))"


def test_standardize_memory():
    x = np.zeros((16 * MIB // 784, 784), np.uint8)
    scale = datasets.Standardize()
    with peak_memory(4 * MIB):
        scale.fit(x)
    with peak_memory(4 * x.size + x.size + 4 * MIB):
        scale.transform(x)


@pytest.mark.parametrize(
    ("axis", "error"),
    [
        (1, ValueError),
        (-1, ValueError),
        ((), ValueError),
        ((1, 2), ValueError),
        ((0, 0), ValueError),
        ((0, -1), ValueError),
        (0.0, TypeError),
        ("0", TypeError),
        (True, TypeError),
        ([0, 1.0], TypeError),
        ([1], ValueError),
        ((0, 1.0), TypeError),
    ],
)
def test_standardize_bad_axis(axis, error):
    with pytest.raises(error, match="axis"):
        datasets.Standardize(axis)


BAD_NUMBERS = [
    (None, TypeError),
    ("text", TypeError),
    (["1", "2"], TypeError),
    ([1j, 2], TypeError),
    ([None, 1.0], TypeError),
    (np.array(["2020-01-01"], "M8[D]"), TypeError),
    (3.0, ValueError),
    ([[1.0], [1.0, 2.0]], ValueError),
    ([1.0, float("nan")], ValueError),
    ([1.0, float("inf")], ValueError),
    (np.array([1, -np.inf], np.float16), ValueError),
    ([1e200, -1e200], ValueError),
]


@pytest.mark.parametrize(("x", "error"), BAD_NUMBERS)
def test_standardize_bad_data(x, error):
    fitted = datasets.Standardize().fit([1.0, 2.0])
    mean = fitted.mean
    for method in (fitted.fit, fitted.transform, fitted.fit_transform, fitted.inverse_transform):
        with pytest.raises(error, match=r"^x:"):
            method(x)
    assert fitted.mean is mean


def test_standardize_misuse():
    scale = datasets.Standardize()
    for method in (scale.transform, scale.inverse_transform):
        with pytest.raises(ValueError, match="call fit first"):
            method([1.0])
    with pytest.raises(ValueError, match="at least one"):
        scale.fit(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="at least one"):
        datasets.Standardize(None).fit(np.zeros((3, 0)))
    with pytest.raises(ValueError, match="axis 2"):
        datasets.Standardize((0, 2)).fit(np.zeros((3, 4)))
    scale.fit(np.eye(3))
    for x in (np.zeros((2, 4)), np.zeros(3), np.zeros((2, 3, 1)), np.zeros((2, 1))):
        with pytest.raises(ValueError, match=r"^x: .*\(3,\)"):
            scale.transform(x)
    with pytest.raises(TypeError, match="uint8"):
        scale.inverse_transform(np.zeros((2, 3), np.uint8))
    channels = datasets.Standardize((0, 1, 2)).fit(np.random.rand(4, 5, 5, 3))
    assert channels.transform(np.zeros((1, 9, 7, 3))).shape == (1, 9, 7, 3)
    with pytest.raises(ValueError, match=r"^x:"):
        channels.transform(np.zeros((1, 5, 5, 2)))

"""Initializers: the distribution of what they draw, fans, seeds."""

import math

import numpy as np
import pytest

import fastnn as fnn
from fastnn.initializers import INITIALIZERS, fans

SHAPE = (400, 500)


@pytest.mark.parametrize(
    ("initializer", "std", "limit"),
    [
        (fnn.GlorotUniform(), math.sqrt(2 / 900), math.sqrt(6 / 900)),
        (fnn.GlorotNormal(), math.sqrt(2 / 900), None),
        (fnn.HeUniform(), math.sqrt(2 / 400), math.sqrt(6 / 400)),
        (fnn.HeNormal(), math.sqrt(2 / 400), None),
        (fnn.RandomUniform(-0.3, 0.3), 0.3 / math.sqrt(3), 0.3),
        (fnn.RandomNormal(std=0.2), 0.2, None),
    ],
    ids=repr,
)
def test_moments(initializer, std, limit):
    w = initializer(SHAPE, np.random.default_rng(0))
    assert w.shape == SHAPE
    assert abs(w.mean()) < 5 * std / math.sqrt(w.size)
    assert w.std() == pytest.approx(std, rel=0.01)
    if limit is None:
        assert (abs(w) < 2 * std).mean() == pytest.approx(0.9545, abs=0.003)
    else:
        assert 0.99 * limit < abs(w).max() <= limit


def test_constants():
    rng = np.random.default_rng(0)
    assert (fnn.Constant(1.5)(SHAPE, rng) == 1.5).all()
    assert not fnn.Zeros()(SHAPE, rng).any()
    assert fnn.RandomNormal(3.0, 0.0)((2,), rng).tolist() == [3.0, 3.0]


def test_fans_of_kernels():
    assert fans((784, 128)) == (784, 128)
    assert fans((3, 5, 16, 32)) == (240, 480)
    assert fans((7,)) == (7, 7)


@pytest.mark.parametrize("name", INITIALIZERS)
def test_by_name_and_by_object(name):
    named = fnn.Sequential([fnn.Dense(3, kernel_initializer=name)], 4, seed=0)
    made = INITIALIZERS[name]()
    plain = fnn.Sequential(
        [fnn.Dense(3, kernel_initializer=made, bias_initializer=fnn.Constant(1.0))], 4, seed=0
    )
    np.testing.assert_array_equal(named.state_dict()["0.w"], plain.state_dict()["0.w"])
    assert (plain.state_dict()["0.b"] == 1).all()
    assert (named.state_dict()["0.b"] == 0).all()


def test_seeds():
    def weights(seed):
        return fnn.Sequential([fnn.Dense(3), fnn.Dense(3)], 3, seed=seed).state_dict()

    np.testing.assert_array_equal(weights(7)["0.w"], weights(7)["0.w"])
    assert (weights(7)["0.w"] != weights(8)["0.w"]).all()
    assert (weights(7)["0.w"] != weights(7)["1.w"]).all()
    assert (weights(None)["0.w"] != weights(None)["0.w"]).any()


def test_a_user_initializer():
    class Identity(fnn.Initializer):
        def __call__(self, shape, rng):
            return np.eye(*shape)

    model = fnn.Sequential([fnn.Dense(3, kernel_initializer=Identity())], 3)
    x = np.arange(3, dtype=np.float32)[None]
    np.testing.assert_array_equal(model.predict(x), x)


def test_a_user_initializer_that_gives_nonsense_is_refused():
    class Wrong(fnn.Initializer):
        def __init__(self, values):
            self.values = values

        def __call__(self, shape, rng):
            return self.values

    for values in (np.ones(2), np.full((3, 3), np.nan)):
        with pytest.raises(ValueError, match=r"weight 0\.w: Wrong"):
            fnn.Sequential([fnn.Dense(3, kernel_initializer=Wrong(values))], 3)
    with pytest.raises(TypeError, match=r"^weight 0\.w: got str of dtype <U1, expected numbers"):
        fnn.Sequential([fnn.Dense(3, kernel_initializer=Wrong("1"))], 3)

"""Optimizers: steps against formulas, schedules, and state that lives as long as the object."""

import copy
import multiprocessing
import pickle

import numpy as np
import pytest

import fastnn as fnn
from fastnn import optimizers
from fastnn.component import choose

MADE = {
    "sgd": lambda: fnn.SGD(0.05),
    "momentum": lambda: fnn.SGD(0.05, momentum=0.9),
    "nesterov": lambda: fnn.SGD(0.05, momentum=0.9, nesterov=True),
    "rmsprop": lambda: fnn.RMSProp(0.01),
    "adam": lambda: fnn.Adam(0.01),
    "adamw": lambda: fnn.AdamW(0.01, weight_decay=0.1),
}


def updated(name, theta, gradients):
    """Return the weights after one step per gradient, from the published formulas."""
    v = s = np.zeros_like(theta)
    for t, g in enumerate(gradients, 1):
        if name == "sgd":
            theta = theta - 0.05 * g
        elif name == "momentum":
            v = 0.9 * v + g
            theta = theta - 0.05 * v
        elif name == "nesterov":
            v = 0.9 * v + g
            theta = theta - 0.05 * (g + 0.9 * v)
        elif name == "rmsprop":
            s = 0.9 * s + 0.1 * g**2
            theta = theta - 0.01 * g / (np.sqrt(s) + 1e-7)
        else:
            v, s = 0.9 * v + 0.1 * g, 0.999 * s + 0.001 * g**2
            if name == "adamw":
                theta = theta * (1 - 0.01 * 0.1)
            theta = theta - 0.01 * (v / (1 - 0.9**t)) / (np.sqrt(s / (1 - 0.999**t)) + 1e-8)
    return theta


@pytest.mark.parametrize("name", MADE)
def test_steps_follow_the_formula(name, backend):
    # y = w x with one sample x = 1 and a squared error: the gradient is 2 (w - y).
    model = fnn.Sequential([fnn.Dense(1, use_bias=False)], 1, seed=0)
    model.theta[0] = 1.0
    made = MADE[name]()
    weights, gradients = [1.0], []
    for _ in range(5):
        gradients.append(2 * (weights[-1] - 0.25))
        weights.append(float(updated(name, np.array(1.0), np.array(gradients))))
        model.fit([[1.0]], [[0.25]], loss="mse", optimizer=made, verbose=0)
        assert model.theta[0] == pytest.approx(weights[-1], rel=2e-6)


@pytest.mark.parametrize("name", MADE)
def test_a_second_fit_with_the_same_object_goes_on(name, blobs, backend):
    x, y = blobs
    results = []
    for parts in ([4], [1, 3], [2, 1, 1]):
        model = fnn.Sequential([fnn.Dense(8, "relu"), fnn.Dropout(0.2), fnn.Dense(2)], seed=0)
        made = MADE[name]()
        for epochs in parts:
            model.fit(x, y, optimizer=made, epochs=epochs, batch_size=10, verbose=0)
        results.append(model.theta.copy())
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_one_object_keeps_models_apart(blobs):
    x, y = blobs
    shared, results = fnn.Adam(0.01), []
    models = [fnn.Sequential([fnn.Dense(2)], seed=0) for _ in range(2)]
    for model in models:
        model.fit(x, y, optimizer=shared, verbose=0)
        results.append(model.theta.copy())
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("name", MADE)
def test_schedule_gives_each_step_its_rate(name, blobs, backend):
    x, y = blobs
    results = []
    for lr, schedule in ((0.01, None), (0.02, lambda step: 0.5), (0.01, lambda step: 1.0)):
        model = fnn.Sequential([fnn.Dense(2)], seed=0)
        made = MADE[name]()
        made.lr, made.schedule = lr, schedule
        model.fit(x, y, optimizer=made, epochs=2, batch_size=10, verbose=0)
        results.append(model.theta.copy())
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_schedule_is_asked_for_every_step_once(blobs, backend):
    x, y = blobs
    asked = []

    def schedule(step):
        asked.append(step)
        return 0.0 if step >= 11 else 1.0

    model = fnn.Sequential([fnn.Dense(2)], seed=0)
    made = fnn.SGD(0.1, schedule=schedule)
    model.fit(x, y, optimizer=made, batch_size=10, verbose=0)
    after_one = model.theta.copy()
    model.fit(x, y, optimizer=made, epochs=2, batch_size=10, verbose=0)
    assert asked == list(range(33))
    np.testing.assert_array_equal(model.theta, after_one)


def test_a_new_rate_holds_from_the_next_epoch_on(blobs):
    x, y = blobs
    made, seen = fnn.SGD(0.1), []

    def callback(model, history):
        seen.append(model.theta.copy())
        made.lr = 1e-30

    model = fnn.Sequential([fnn.Dense(2)], seed=0)
    model.fit(x, y, optimizer=made, epochs=3, callbacks=[callback], verbose=0)
    np.testing.assert_array_equal(seen[0], seen[1])


@pytest.mark.parametrize("name", MADE)
def test_clipping_limits_the_norm_over_all_weights(name, blobs, backend):
    x, y = blobs
    steps = []
    for clip_norm in (None, 0.25, 1e9):
        model = fnn.Sequential([fnn.Dense(300, "relu"), fnn.Dense(2)], 6, seed=0)
        made = MADE[name]()
        made.clip_norm = clip_norm
        model.fit(1e4 * x, y, optimizer=made, batch_size=None, verbose=0, fuse=False)
        steps.append((model.grad.copy(), model.theta.copy()))
    (grad, theta), (clipped, _), (same, as_before) = steps
    norm = np.linalg.norm(grad.astype(float))
    assert norm > 10
    np.testing.assert_allclose(clipped, grad * 0.25 / norm, rtol=1e-5)
    np.testing.assert_allclose(same, grad, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(as_before, theta, rtol=1e-4, atol=1e-5)


def test_clipping_keeps_sgd_out_of_the_product(blobs, compiled):
    model = fnn.Sequential([fnn.Dense(5, "relu"), fnn.Dense(2)], 6, seed=0)
    model.fit(*blobs, optimizer=fnn.SGD(0.1, clip_norm=1.0), verbose=0)
    names = [row["name"] for row in model.plan.table()]
    assert names[-4:] == ["chunk_sums", "clip_gradient", "sgd_update", "advance"]


def test_names_stand_for_default_options():
    for name, made in optimizers.OPTIMIZERS.items():
        assert repr(choose("o", name, fnn.Optimizer, optimizers.OPTIMIZERS)) == (repr(made()))


def test_a_user_optimizer_with_state(blobs, compiled):
    class Sign(fnn.Optimizer):
        slots = ("last",)

        def update(self, k, grad, lr, clock, buffers, theta):
            buffers["last"][...] = np.sign(grad)
            theta -= lr[min(clock[2], len(lr) - 1)] * buffers["last"]

    x, y = blobs
    model = fnn.Sequential([fnn.Dense(2)], seed=0)
    with pytest.warns(UserWarning, match="Sign computes outside the kernels"):
        history = model.fit(x, y, optimizer=Sign(0.01), epochs=10, verbose=0)
    assert history["loss"][-1] < history["loss"][0]


def test_options_can_be_read_back():
    made = fnn.SGD(0.1, momentum=0.5)
    assert made.config() == {
        "lr": 0.1,
        "momentum": 0.5,
        "nesterov": False,
        "schedule": None,
        "clip_norm": None,
    }
    assert type(made)(**made.config()).config() == made.config()
    assert copy.copy(made).lr == 0.1


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))]
)
@pytest.mark.parametrize("name", MADE)
def test_copies_begin_anew_with_the_same_options(name, copied, blobs):
    x, y = blobs
    made, results = MADE[name](), []
    made.schedule, made.clip_norm = fnn.CosineDecay(100), 1.0
    made.lr /= 2
    for optimizer in (made, copied(made)):
        model = fnn.Sequential([fnn.Dense(2)], seed=0)
        for _ in range(2):
            model.fit(x, y, optimizer=optimizer, verbose=0)
        results.append(model.theta)
        assert optimizer.state(model).epoch == 2
        made = copied(made)  # of one with a state
        assert made.state(model).epoch == 0
        assert repr(made) == repr(optimizer)
    np.testing.assert_array_equal(*results)


def test_optimizers_pass_to_a_new_process():
    made = [make() for make in MADE.values()]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(repr, (made,)) == repr(made)

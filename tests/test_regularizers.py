"""Penalties: their formula in loss and gradient, which weights they reach, plans and bits."""

import copy

import numpy as np
import pytest

import fastnn as fnn

MADE = {
    "l1": (fnn.L1(0.03), lambda w: 0.03 * abs(w).sum()),
    "l2": (fnn.L2(0.02), lambda w: 0.02 * (w**2).sum()),
    "both": (fnn.L1L2(0.01, 0.05), lambda w: 0.01 * abs(w).sum() + 0.05 * (w**2).sum()),
}


def net(first=None, second=None, units=40):
    return fnn.Sequential(
        [
            fnn.Dense(units, "relu", bias_initializer="gaussian", kernel_regularizer=first),
            fnn.Dense(2, bias_initializer="gaussian", kernel_regularizer=second),
        ],
        input_shape=6,
        seed=3,
    )


@pytest.mark.parametrize("name", MADE)
def test_a_layer_s_penalty_is_part_of_the_loss(name, blobs, backend):
    regularizer, value = MADE[name]
    plain = net().evaluate(*blobs)
    model = net(first=regularizer)
    figures = model.evaluate(*blobs)
    assert figures["loss"] == pytest.approx(plain["loss"] + value(model.layers[0].w), rel=1e-6)
    assert figures["accuracy"] == plain["accuracy"]


@pytest.mark.parametrize("name", MADE)
def test_a_loss_s_penalty_is_on_all_kernels_and_no_bias(name, blobs, backend):
    regularizer, value = MADE[name]
    model = net(second=fnn.L2(0.5))
    kernels = [layer.w for layer in model.layers if layer.kernels]
    wanted = (
        net().evaluate(*blobs)["loss"] + sum(map(value, kernels)) + 0.5 * (kernels[1] ** 2).sum()
    )
    penalized = fnn.CrossEntropy(penalty=regularizer)
    assert model.evaluate(*blobs, penalized)["loss"] == pytest.approx(wanted, rel=1e-6)
    history = model.fit(*blobs, loss=penalized, optimizer=fnn.SGD(1e-30), verbose=0)
    assert history["loss"][0] == pytest.approx(wanted, rel=1e-5)


def test_penalties_alone_shrink_the_weights(backend):
    # Zero inputs and targets leave the penalties' gradients: w -= lr * (l1 * sign(w) + 2 * l2 * w).
    layers = [fnn.Dense(3, kernel_regularizer="l1"), fnn.Dense(2, kernel_regularizer=fnn.L2(0.5))]
    model = fnn.Sequential(layers, input_shape=5, seed=0)
    first, second = (layer.w.copy() for layer in layers)
    model.fit(np.zeros((4, 5)), np.zeros((4, 2)), loss="mse", optimizer=fnn.SGD(0.1), verbose=0)
    np.testing.assert_allclose(layers[0].w, first - 0.1 * 0.01 * np.sign(first), rtol=1e-6)
    np.testing.assert_allclose(layers[1].w, second * (1 - 0.1 * 2 * 0.5), rtol=1e-6)
    assert not layers[0].b.any() and not layers[1].b.any()


OPTIMIZERS = {
    "sgd": lambda: fnn.SGD(0.1),
    "clipped": lambda: fnn.SGD(0.1, clip_norm=0.2),
    "adam": lambda: fnn.Adam(0.01, clip_norm=0.1),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_plans_with_penalties_against_eager_steps(optimizer, blobs, compiled):
    results = []
    for options in ({"eager": True}, {"fuse": False}, {}):
        for threads in (1, 2, 4):
            fnn.set_num_threads(threads)
            model = net(fnn.L1(0.01), "l2", units=1500)
            history = model.fit(
                *blobs,
                loss=fnn.CrossEntropy(penalty=fnn.L2(0.003)),
                optimizer=OPTIMIZERS[optimizer](),
                epochs=2,
                batch_size=10,
                verbose=0,
                **options,
            )
            results.append((model.theta.copy(), history.batch_losses))
    for theta, losses in results[1:6]:
        np.testing.assert_array_equal(theta, results[0][0])
        np.testing.assert_array_equal(losses, results[0][1])
    for theta, losses in results[6:]:
        np.testing.assert_array_equal(theta, results[6][0])
        np.testing.assert_allclose(theta, results[0][0], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(losses, results[0][1], rtol=1e-4)
    with fnn.use_backend("reference"):
        model = net(fnn.L1(0.01), "l2", units=1500)
        loss = fnn.CrossEntropy(penalty=fnn.L2(0.003))
        model.fit(
            *blobs, loss=loss, optimizer=OPTIMIZERS[optimizer](), epochs=2, batch_size=10, verbose=0
        )
    np.testing.assert_allclose(results[0][0], model.theta, rtol=1e-3, atol=2e-4)


def test_a_penalty_goes_into_the_product_with_plain_sgd(blobs, compiled):
    model = net("l1", "l2")
    model.fit(*blobs, optimizer=fnn.SGD(0.1), verbose=0)
    names = [row["name"] for row in model.plan.table()]
    assert names.count("dense_backward_w + sgd_update + penalty") == 2
    assert not {"penalty_gradient", "sgd_update"} & set(names)
    model = net("l1", None)  # on one weight alone
    model.fit(*blobs, optimizer=fnn.SGD(0.1), verbose=0)
    names = [row["name"] for row in model.plan.table()]
    assert names.count("dense_backward_w + sgd_update + penalty") == 1
    assert names.count("dense_backward_w + sgd_update") == 1
    model.fit(*blobs, optimizer=fnn.SGD(0.1, momentum=0.9), verbose=0)
    assert "penalty_gradient" in [row["name"] for row in model.plan.table()]


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_fused_penalties_follow_the_formula(batch_size, blobs, compiled):
    results = []
    for fuse in (True, False):
        model = net(fnn.L1L2(0.03, 0.2), fnn.L2(0.1), units=37)
        history = model.fit(
            *blobs, optimizer=fnn.SGD(0.1), batch_size=batch_size, epochs=2, verbose=0, fuse=fuse
        )
        results.append((model.theta, history.batch_losses))
    for fused, plain in zip(*results, strict=True):
        np.testing.assert_allclose(fused, plain, rtol=1e-3, atol=1e-5)


def test_a_user_layer_names_its_kernels(blobs):
    class Scale(fnn.Layer):
        kernels = ("scale",)

        def build(self, input_shape):
            self.add_weight("scale", input_shape, fnn.Constant(2.0))
            self.add_weight("shift", input_shape, fnn.Constant(7.0))
            return input_shape

        def forward(self, k, x, out, saved):
            np.multiply(x, self.scale, out=out)

        def backward(self, k, dout, x, out, dx, saved):
            np.sum(dout * x, axis=0, out=self.dscale)
            self.dshift[...] = 0

    with fnn.use_backend("reference"):
        model = fnn.Sequential([Scale()], input_shape=3)
        loss = fnn.MeanSquaredError(penalty=fnn.L2(0.25))
        assert model.evaluate(np.zeros((1, 3)), np.zeros((1, 3)), loss) == {"loss": 3.0}


def test_options_are_shown_and_copied():
    layer = fnn.Dense(3, kernel_regularizer="l2")
    assert repr(layer) == "Dense(3, kernel_regularizer=L2())"
    assert repr(fnn.Dense(3, kernel_regularizer=fnn.L1(0.5))) == (
        "Dense(3, kernel_regularizer=L1(alpha=0.5))"
    )
    assert repr(fnn.CrossEntropy(penalty=fnn.L1L2(0.1, 0))) == (
        "CrossEntropy(penalty=L1L2(l1=0.1, l2=0.0))"
    )
    model = copy.deepcopy(fnn.Sequential([fnn.Dense(2, kernel_regularizer=fnn.L2(0.1))], 3))
    assert model.layers[0].kernel_regularizer.alpha == 0.1


def test_without_penalties_nothing_is_added_to_a_step(blobs, compiled):
    model = net(fnn.L2(0), None)
    model.fit(*blobs, verbose=0)
    names = {row["name"] for row in model.plan.table()}
    assert not any("chunk" in name or "penalty" in name for name in names)
    assert "dense_backward_w + sgd_update" in names

"""What fusing a plan merges, moves, shares and delays, and that its results stay the same."""

import numpy as np
import pytest
from conftest import make_trainer, op_names

import fastnn as fnn
from fastnn.samples import Data
from fastnn.trainer import Trainer


def test_fusing_no_plan_is_refused(compiled):
    with pytest.raises(TypeError, match="plan"):
        compiled.fuse(None)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "sigmoid", "tanh", "gelu"])
def test_fusion_merges_neighbours(activation, compiled):
    fused = op_names(make_trainer([fnn.Dense(5, activation), fnn.Dense(4)]).plan)
    assert f"dense_forward + {activation}_forward" in fused
    assert f"dense_backward_x + {activation}_backward" in fused
    assert fused.count("dense_backward_w + sgd_update") == 3
    assert "sgd_update" not in fused
    plain = op_names(make_trainer([fnn.Dense(5, activation), fnn.Dense(4)], fuse=False).plan)
    assert not [name for name in plain if "+" in name]
    assert plain.count("sgd_update") == 1


@pytest.mark.parametrize("optimizer", [fnn.SGD(0.1, momentum=0.9), fnn.Adam(1e-3), fnn.RMSProp()])
def test_only_plain_sgd_goes_into_the_product(optimizer, compiled):
    fused = op_names(make_trainer([fnn.Dense(5, "relu")], optimizer=optimizer).plan)
    assert [name for name in fused if name.endswith("_update")]
    assert not [name for name in fused if "dense_backward_w +" in name]


def test_sgd_stays_apart_where_a_step_is_long_enough_to_be_interrupted(compiled):
    trainer = make_trainer([fnn.Dense(700, "relu")], features=700, samples=1000, batch=1000)
    assert trainer.plan.table()[-2]["name"] == "sgd_update"


MIXED = {
    "images": ((6, 6, 2), lambda: [fnn.Conv2D(5, 3), fnn.Flatten(), fnn.Dense(9, "relu")]),
    "penalty": (
        (6, 6, 2),
        lambda: [fnn.Conv2D(5, 3, kernel_regularizer=fnn.L2(0.01)), fnn.Flatten(), fnn.Dense(9)],
    ),
    "between": ((7,), lambda: [fnn.Dense(9), fnn.BatchNorm(), fnn.ReLU()]),
    "delayed": ((48,), lambda: [fnn.Dense(64), fnn.BatchNorm(), fnn.ReLU()]),
    "sequences": ((5, 4), lambda: [fnn.LSTM(6), fnn.Dense(9)]),
    "tokens": ((5,), lambda: [fnn.Embedding(11, 4), fnn.Flatten(), fnn.Dense(9)]),
}


@pytest.mark.parametrize("batch", [4, 8])
@pytest.mark.parametrize("net", MIXED)
def test_sgd_goes_into_the_product_where_others_keep_their_update(net, batch, compiled):
    shape, layers = MIXED[net]
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 32)
    x = rng.standard_normal((32, *shape), np.float32)
    if net == "tokens":
        x = rng.integers(0, 11, (32, *shape))
    thetas = []
    for fuse in (False, True):
        model = fnn.Sequential([*layers(), fnn.Dense(3)], seed=1)
        model.fit(x, y, optimizer=fnn.SGD(0.02), epochs=2, batch_size=batch, verbose=0, fuse=fuse)
        thetas.append(model.theta)
    np.testing.assert_allclose(*thetas, atol=1e-5)
    names = op_names(model.plan)
    delayed = [name for name in names if "dense_backward_w + sgd_update, delayed" in name]
    assert len(delayed) == (net == "delayed" and batch == 4)
    assert names.count("dense_backward_w + sgd_update") == 2 - len(delayed)
    assert names.count("sgd_update") == 1


def test_an_update_of_few_parameters_stays(compiled):
    grad, theta, clock = np.ones(5, np.float32), np.ones(5, np.float32), np.zeros(3, np.int64)
    plan = compiled.Plan()
    with plan.capture():
        compiled.sgd_update(grad, np.ones(1, np.float32), 0.0, False, clock, None, theta)
    compiled.fuse(plan)
    assert plan.replay(1) == 1
    np.testing.assert_array_equal(theta, 0)


@pytest.mark.parametrize("after", [fnn.Sigmoid, fnn.Tanh, fnn.Softmax, lambda: fnn.Dropout(0.5)])
def test_a_pool_knows_where_its_relu_was_open_whatever_overwrites_it(after, compiled):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((24, 8, 8, 2), np.float32), rng.integers(0, 3, 24)
    thetas = []
    for fuse in (False, True):
        layers = [fnn.Conv2D(4, 3, bias_initializer=fnn.Constant(-0.5)), fnn.ReLU()]
        layers += [fnn.MaxPool2D(2), after(), fnn.Flatten(), fnn.Dense(3)]
        model = fnn.Sequential(layers, seed=1)
        model.fit(x, y, optimizer=fnn.SGD(0.5), epochs=3, batch_size=24, verbose=0, fuse=fuse)
        thetas.append(model.theta)
    np.testing.assert_allclose(*thetas, atol=1e-5)


@pytest.mark.parametrize("reader", ["before", "after", "next step"])
def test_a_gradient_that_others_read_is_kept(reader, compiled):
    rng = np.random.default_rng(0)
    shapes = {"dout": (8, 5), "w": (6, 5), "x": (8, 6), "v": (8, 3), "u": (3, 6)}
    a = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    y = np.tanh(a["x"]).reshape(-1)
    results = []
    for fuse in (False, True):
        dx, da, dw, du = (np.zeros(s, np.float32) for s in ((8, 6), (8, 6), (6, 5), (3, 6)))
        plan = compiled.Plan()
        with plan.capture():
            if reader == "next step":
                compiled.dense_backward(dx, a["v"], a["u"], None, du, None)
            compiled.dense_backward(a["dout"], a["x"], a["w"], dx, dw, None)
            if reader == "before":
                compiled.dense_backward(dx, a["v"], a["u"], None, du, None)
            compiled.tanh_backward(dx.reshape(-1), y, da.reshape(-1))
            if reader == "after":
                compiled.dense_backward(dx, a["v"], a["u"], None, du, None)
        if fuse:
            compiled.fuse(plan)
        assert plan.replay(2) == 2
        results.append((da, du))
    np.testing.assert_allclose(results[0][0], results[1][0], atol=1e-5)
    np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 5, 8, 9, 128, 129])
@pytest.mark.parametrize(("features", "units"), [(257, 100), (784, 128), (784, 300), (1700, 40)])
def test_the_terms_of_a_sum_are_shared(features, units, batch, compiled):
    """By threads that come and go between two replays, with the same bits."""
    results = []
    for threads in ([1, 1, 1, 1], [2, 4, 1, 6], [3, 2, 16, 2]):
        trainer = make_trainer(
            [fnn.Dense(units, "relu"), fnn.Dense(units, "tanh")], features, 4 * batch, batch
        )
        for n in threads:
            fnn.set_num_threads(n)
            assert trainer.plan.replay(1, budget=60) == 1
        results.append((trainer.model.theta, trainer.losses))
    for theta, losses in results[1:]:
        np.testing.assert_array_equal(theta, results[0][0])
        np.testing.assert_array_equal(losses, results[0][1])


def test_a_sum_of_no_terms(compiled):
    x, w, b, out = (np.ones(shape, np.float32) for shape in ((4, 0), (0, 3), 3, (4, 3)))
    loss, losses, clock = np.zeros(1, np.float32), np.zeros(1, np.float32), np.zeros(3, np.int64)
    plan = compiled.Plan()
    with plan.capture():
        compiled.dense_forward(x, w, b + 1, out)
        compiled.log_step(loss, None, clock, losses, None)  # a training step, then
    compiled.fuse(plan)
    assert plan.replay(1) == 1
    np.testing.assert_array_equal(out, 2)


def test_a_single_sample_is_shared_where_the_weight_is_large(compiled):
    fnn.set_num_threads(2)
    heavy = fnn.SGD(0.1, 0.9)

    def shared(trainer):
        return [
            row["name"]
            for row in trainer.plan.table()
            if row["threads"] == 2 and "dense" in row["name"]
        ]

    plan = make_trainer([fnn.Dense(128, "relu"), fnn.Dense(64, "relu")], 784, 4, 1, heavy)
    assert shared(plan) == ["dense_forward + relu_forward", "dense_backward_w"]
    few = make_trainer([fnn.Dense(128, "relu")], 784, 4, 1)
    assert shared(few) == [
        "every 24 steps: dense_forward + relu_forward",
        "every 24 steps: dense_backward_w + sgd_update",
    ]
    # too little to read, columns alone would be shared, one thread reads all weights
    narrow = make_trainer([fnn.Dense(40)], 784, 4, 1, heavy)
    short = make_trainer([fnn.Dense(500)], 200, 4, 1, heavy)
    clipped = make_trainer([fnn.Dense(128)], 784, 4, 1, fnn.SGD(0.1, clip_norm=1.0))
    # most of the weight is not read
    pixels = np.zeros((4, 784), np.float32)
    pixels[:, :300] = 1
    net = fnn.Sequential([fnn.Dense(128), fnn.Dense(3)], 784)
    data = Data(pixels, 1.0, np.zeros(4, np.int32), 1.0)
    sparse = Trainer(net, data, fnn.CrossEntropy(), heavy, batch_size=1)
    for trainer in (narrow, short, clipped, sparse):
        assert not shared(trainer)


def first_gradient(images, n, fuse):
    """Return the loss of a first step, and where it goes with a learning rate of 1."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, len(images)).astype(np.int32)
    net = [fnn.Dense(131, "tanh"), fnn.Dense(10)]
    model = fnn.Sequential(net, images.shape[1], seed=1)
    before = model.theta.copy()
    loss, sgd = fnn.CrossEntropy(penalty=fnn.L2(1e-3)), fnn.SGD(1.0)
    fnn.set_num_threads(n)
    data = Data(images, 1.0, y, 1.0)
    trainer = Trainer(model, data, loss, sgd, batch_size=len(images), fuse=fuse)
    sgd.fill(trainer._lr, 0)
    assert trainer.plan.replay(1, budget=60) == 1
    return trainer.losses[0], model.theta - before


@pytest.mark.parametrize("rows", [2, 7, 8, 17, 64, 200, 500])
@pytest.mark.parametrize("ground", ["all", "all but a pixel", "rim", "around strokes", "at random"])
def test_the_ground_of_images_is_summed_once(rows, ground, compiled):
    """As precisely as term by term, and to the same bits for any number of threads."""
    rng = np.random.default_rng(rows)
    size = 1201  # more than a panel's rows, and no multiple of a vector
    strokes = np.cumsum(rng.random(rows * size) < 0.2).reshape(rows, size)
    at = {
        "all": np.ones(size, bool),
        "all but a pixel": np.arange(size) != 700,
        "rim": np.arange(size) % 28 >= rng.integers(6, 12, size // 28 + 1).repeat(28)[:size],
        "around strokes": (rng.random(rows * size) < 0.8)[strokes],
        "at random": rng.random((rows, size)) < 0.8,
    }[ground]
    pixels = rng.standard_normal((rows, size))
    images = np.where(at, rng.choice([0, -0.42, 1.5], size), pixels).astype(np.float32)
    loss, moved = first_gradient(images, 1, fuse=False)
    fused_loss, fused = first_gradient(images, 1, fuse=True)
    assert fused_loss == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(fused, moved, rtol=1e-4, atol=1e-5)
    for n in (2, 3, 8, 17):
        other_loss, other = first_gradient(images, n, fuse=True)
        assert other_loss == fused_loss
        np.testing.assert_array_equal(other, fused)


@pytest.mark.parametrize("ground", [0, -0.42])
def test_a_prediction_does_not_depend_on_its_neighbours(ground, compiled):
    """Their ground is another in each batch; what is predicted for a row is the same."""
    rng = np.random.default_rng(0)
    images = np.repeat(rng.standard_normal((20, 784)), 10, axis=0).astype(np.float32)
    images[:, 100:700] = ground
    model = fnn.Sequential([fnn.Dense(128, "relu"), fnn.Dense(10)], 784)
    model.fit(images, np.arange(200) % 10, epochs=1, verbose=0)
    together = model.predict(images)
    for rows in (1, 7, 10, 64):
        parts = [model.predict(images[i : i + rows]) for i in range(0, 200, rows)]
        np.testing.assert_array_equal(np.concatenate(parts), together)


def delayed(trainer):
    """Return the names of the ops that move the first weight once for several steps."""
    return [row["name"] for row in trainer.plan.table() if "delayed" in row["name"]]


def few_samples(batch, features, units, fuse=True, penalty=None, bias=True, activation="gelu"):
    """Return a trainer of 60 steps of few samples, each with another learning rate."""
    rng = np.random.default_rng(5)
    images = rng.random((60 * batch, features), np.float32)
    images[rng.random(images.shape) < 0.4] = 0
    layers = [fnn.Dense(units, activation, kernel_regularizer=penalty, use_bias=bias), fnn.Dense(3)]
    net = fnn.Sequential(layers, features, seed=8)
    data = Data(images, 0.5, np.arange(len(images), dtype=np.int32) % 3, 1.0)
    descent = fnn.SGD(0.1, schedule=fnn.ExponentialDecay(30))
    trainer = Trainer(
        net, data, fnn.CrossEntropy(), descent, batch_size=batch, shuffle=True, fuse=fuse
    )
    trainer._rows[:] = np.random.default_rng(6).permutation(len(images))
    descent.fill(trainer._lr, 0)  # as run_epoch does
    return trainer


@pytest.mark.parametrize(
    ("batch", "features", "units"),
    [(1, 257, 100), (1, 784, 130), (2, 1700, 40), (8, 784, 2048), (8, 784, 400)],
)
def test_steps_of_few_samples_move_the_first_weight_together(batch, features, units, compiled):
    """With the same bits for any number of threads, and for runs that end between two blocks."""
    results, block = [], 24 // batch
    for threads, runs in (
        (2, [60]),
        (1, [60]),
        (4, [block, block, 60 - 2 * block]),
        (17, [60]),
    ):
        fnn.set_num_threads(threads)
        trainer = few_samples(batch, features, units, activation="tanh")
        assert len(delayed(trainer)) == 2
        for steps in runs:
            assert trainer.plan.replay(steps, budget=60) == steps
        with pytest.raises(IndexError):
            trainer.plan.replay(1)
        results.append((trainer.model.theta, trainer.losses))
    for theta, losses in results[1:]:
        np.testing.assert_array_equal(theta, results[0][0])
        np.testing.assert_array_equal(losses, results[0][1])


@pytest.mark.parametrize("runs", [[60], [1] * 60, [23, 1, 25, 11], [59, 5]])
@pytest.mark.parametrize(
    ("batch", "bias", "penalty"),
    [(1, True, None), (1, False, fnn.L2(0.1)), (5, True, None), (5, False, fnn.L2(0.5))],
)
def test_a_weight_that_is_moved_later_is_the_same_weight(batch, bias, penalty, runs, compiled):
    """Wherever a run ends, also past the end of the data, every step that was done has moved it."""
    plain = few_samples(batch, 784, 340, fuse=False, bias=bias, penalty=penalty)
    fused = few_samples(batch, 784, 340, bias=bias, penalty=penalty)
    assert not delayed(plain) and len(delayed(fused)) == (3 if penalty else 2)
    before = plain.model.theta.copy()
    for steps in runs:
        left = min(steps, 60 - int(plain.clock[2]))
        for trainer in (plain, fused):
            if left == steps:
                assert trainer.plan.replay(steps, budget=60) == steps
            else:
                with pytest.raises(IndexError, match=f"after {left} of {steps} steps"):
                    trainer.plan.replay(steps, budget=60)
        moved = np.abs(plain.model.theta - before).max()
        assert moved > 0
        np.testing.assert_allclose(
            fused.model.theta, plain.model.theta, rtol=1e-5, atol=1e-4 * moved
        )
    np.testing.assert_allclose(fused.losses, plain.losses, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(fused.clock, plain.clock)


@pytest.mark.parametrize("alpha", [1.0, 40.0, 50.1, 60.0, 90.0])
def test_a_penalty_that_leaves_next_to_nothing_of_a_weight(alpha, compiled):
    """A ReLU asks for the sign of what is left."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((100, 64), np.float32), rng.standard_normal((100, 3), np.float32)
    losses = []
    for fuse in (True, False):
        layers = [fnn.Dense(64, "relu", kernel_regularizer=fnn.L2(alpha)), fnn.Dense(3)]
        model = fnn.Sequential(layers, 64, seed=0)
        options = {"loss": "mse", "optimizer": fnn.SGD(0.01), "batch_size": 1, "verbose": 0}
        losses.append(model.fit(x, y, shuffle=False, fuse=fuse, **options).batch_losses)
        assert ("delayed" in str(model.plan)) == fuse
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize("step", [0, 1, 7, 23, 24, 30])
def test_a_loss_that_is_not_finite_ends_a_block_before_it(step, compiled):
    stopped, whole = few_samples(1, 784, 128), few_samples(1, 784, 128)
    stopped.data.x[stopped._rows[step]] = np.nan
    assert stopped.plan.replay(60, budget=60) == step
    assert stopped.plan.stopped
    assert whole.plan.replay(step, budget=60) == step
    np.testing.assert_array_equal(stopped.model.theta, whole.model.theta)
    np.testing.assert_array_equal(stopped.clock, whole.clock)


def test_a_rare_large_number_spoils_no_other_sample(compiled):
    """What most samples of a block have in a column is not subtracted there."""
    losses = []
    for fuse in (True, False):
        trainer = few_samples(1, 784, 128, fuse)
        trainer.data.x[:, :600] = -0.4
        trainer.data.x[trainer._rows[6], :5] = 1e6
        assert trainer.plan.replay(6, budget=60) == 6
        losses.append(trainer.losses[:6])
    np.testing.assert_allclose(*losses, rtol=1e-4, atol=1e-5)


def test_more_steps_than_can_be_counted_in_samples(compiled):
    trainer = few_samples(4, 784, 128)
    with pytest.raises(IndexError, match="after 60 of"):
        trainer.plan.replay(2**62, budget=60)


def test_a_plan_whose_steps_move_a_weight_together_takes_no_further_ops(compiled):
    plan = few_samples(1, 784, 128).plan
    with pytest.raises(RuntimeError, match="together"), plan.capture():
        pass
    assert plan.replay(3) == 3


def test_table_has_a_steps_part_of_what_several_do_together(compiled):
    rows = {row["name"]: row for row in few_samples(2, 784, 128).plan.table()}
    gather, product = (
        rows["every 12 steps: gather_rows"],
        rows["every 12 steps: dense_forward + gelu_forward"],
    )
    assert gather["bytes"] == pytest.approx(2 * 4 * 2 * 784, abs=4)
    assert product["flops"] == pytest.approx(2 * 2 * 784 * 128 + 2 * 784 * 24)
    assert (
        product["bytes"] == (4 * 24 * 784 + 24 + 4 * 784 * 128 + 4 * 24 * 128 + 4 * 24 * 24) // 12
    )
    assert isinstance(product["bytes"], int)
    assert rows["dense_backward_w + sgd_update, delayed"]["bytes"] < 5000


@pytest.mark.parametrize("how", ["apart", "in one array", "after the update"])
def test_who_else_writes_or_reads_a_penalty(how, compiled):
    """What is its own, and summed before the weight moves, is known without reading the weight."""
    k, results = compiled, []
    for fuse in (True, False):
        rng = np.random.default_rng(0)
        data, theta = (0.1 * rng.standard_normal(n, np.float32) for n in (48 * 64, 2 * 64 * 64))
        grad, (x, hidden, out, dout) = np.zeros_like(theta), np.zeros((4, 1, 64), np.float32)
        (w, v), (dw, dv) = theta.reshape(2, 64, 64), grad.reshape(2, 64, 64)
        loss, losses, sums = np.zeros(1, np.float32), np.zeros(48, np.float32), np.zeros((2, 4))
        clock, lr, zero = (
            np.zeros(3, np.int64),
            np.full(1, 0.05, np.float32),
            np.zeros(1, np.float32),
        )

        def add_penalties(sums=sums, w=w, v=v, loss=loss, losses=losses, clock=clock):
            for part, weight in ((0, w), (0 if how == "in one array" else 1, v)):
                k.chunk_sums(weight.reshape(-1), 0.0, 0.5, sums[part])
                k.add_chunk_sums(sums[part], loss)
            k.log_step(loss, None, clock, losses, None)

        plan = k.Plan()
        with plan.capture():
            k.gather_rows(data.reshape(48, 64), None, 1.0, clock, x)
            k.relu_forward(zero, loss)
            k.dense_forward(x, w, None, hidden)
            k.dense_forward(hidden, v, None, out)
            if how != "after the update":
                add_penalties()
            k.dense_backward(out, hidden, v, dout, dv, None)
            k.dense_backward(dout, x, w, None, dw, None)
            k.penalty_gradient(w.reshape(-1), 0.0, 0.5, dw.reshape(-1))
            k.penalty_gradient(v.reshape(-1), 0.0, 0.5, dv.reshape(-1))
            k.sgd_update(grad, lr, 0.0, False, clock, None, theta)
            if how == "after the update":
                add_penalties()
            k.advance(1, clock)
        if fuse:
            k.fuse(plan)
            assert any("delayed" in name for name in op_names(plan)) == (how == "apart")
        assert plan.replay(48, budget=60) == 48
        results.append((losses, theta))
    for fused, plain in zip(*results, strict=True):
        np.testing.assert_allclose(fused, plain, rtol=1e-5, atol=1e-7)


def test_profiled_steps_move_the_weight_together_too(compiled):
    plain, profiled = few_samples(1, 784, 128), few_samples(1, 784, 128)
    plain.plan.replay(60, budget=60)
    assert profiled.plan.profile(60) == 60
    np.testing.assert_array_equal(plain.model.theta, profiled.model.theta)


def test_steps_that_keep_the_first_weight_up_to_date(compiled):
    """Where a step is worth it alone, or somebody else asks for the weight in every step."""
    assert delayed(few_samples(4, 784, 128))
    for trainer in (
        few_samples(5, 784, 128),
        few_samples(9, 784, 400),
        few_samples(8, 4096, 64),
        few_samples(1, 784, 20),
        few_samples(1, 20, 784),
        few_samples(1, 784, 128, penalty=fnn.L1(0.01)),
        few_samples(1, 784, 128, penalty=fnn.L1L2(0.01, 0.02)),
        few_samples(1, 784, 128, fuse=False),
        make_trainer([fnn.Dense(128)], 784, 4, 1, fnn.SGD(0.1, 0.9)),
        make_trainer([fnn.Dense(128)], 784, 4, 1, fnn.SGD(0.1, clip_norm=1.0)),
        make_trainer([fnn.Dense(128)], 784, 4, 1, fnn.Adam()),
        make_trainer([fnn.ReLU(), fnn.Dense(128)], 784, 4, 1),
    ):
        assert not delayed(trainer)
    rare = np.zeros((60, 2000), np.float32)
    rare[:, :50] = 1
    net = fnn.Sequential([fnn.Dense(128), fnn.Dense(3)], 2000)
    data = Data(rare, 1.0, np.zeros(60, np.int32), 1.0)
    assert not delayed(Trainer(net, data, fnn.CrossEntropy(), fnn.SGD(0.1), batch_size=1))

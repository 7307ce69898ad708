"""The recorded step: capture, fusion, replay, profile, and what may go wrong in each."""

import os
import signal
import threading
import time

import numpy as np
import pytest
from conftest import ctrl_c_after

import fastnn as fnn
from fastnn.trainer import Data, Trainer


def make_trainer(layers, features=12, samples=60, batch=10, optimizer=None, fuse=True):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, features)).astype(np.float32)
    y = rng.integers(0, 3, samples).astype(np.int32)
    model = fnn.Sequential([*layers, fnn.Dense(3)], features, seed=1)
    optimizer = optimizer or fnn.SGD(0.1)
    trainer = Trainer(
        model,
        Data(x, 1.0, y, 1.0),
        fnn.CrossEntropy(),
        optimizer,
        batch_size=batch,
        shuffle=True,
        fuse=fuse,
    )
    optimizer.fill(trainer._lr, 0)  # as run_epoch does
    return trainer


def names(plan):
    return [row["name"] for row in plan.table()]


def test_fusing_no_plan_is_refused(compiled):
    with pytest.raises(TypeError, match="plan"):
        compiled.fuse(None)


def test_capture_records_instead_of_computing(compiled):
    x, out = np.array([-1.0, 2.0], np.float32), np.full(2, np.nan, np.float32)
    plan = compiled.Plan()
    with plan.capture():
        compiled.relu_forward(x, out)
    assert len(plan) == 1
    assert np.isnan(out).all()
    assert plan.replay(3) == 3
    np.testing.assert_array_equal(out, [0, 2])
    x[0] = 5  # it is the buffers that were recorded, not their contents
    plan.replay()
    np.testing.assert_array_equal(out, [5, 2])


def test_an_error_while_capturing_is_raised_and_ends_the_capture(compiled):
    x, short = np.zeros(3, np.float32), np.zeros(2, np.float32)
    plan = compiled.Plan()
    with pytest.raises(ValueError, match="relu_forward"), plan.capture():
        compiled.relu_forward(x, short)
    compiled.relu_forward(x + 1, x)  # computes again
    np.testing.assert_array_equal(x, 1)


def test_capture_and_replay_do_not_nest(compiled):
    plan, other = compiled.Plan(), compiled.Plan()
    with plan.capture():
        compiled.advance(1, np.zeros(3, np.int64))
    with other.capture():
        with pytest.raises(RuntimeError, match="already being captured"), plan.capture():
            pass
        with pytest.raises(RuntimeError, match="while one is being captured"):
            plan.replay()


def test_capture_is_for_its_own_thread(compiled):
    x, out = np.ones(4, np.float32), np.zeros(4, np.float32)
    plan = compiled.Plan()
    with plan.capture():
        thread = threading.Thread(target=compiled.relu_forward, args=(x, out))
        thread.start()
        thread.join()
    assert len(plan) == 0
    np.testing.assert_array_equal(out, 1)


def test_a_plan_keeps_its_arrays_alive(compiled):
    plan = compiled.Plan()
    out = np.zeros(100_000, np.float32)
    with plan.capture():
        compiled.relu_forward(np.full(100_000, 3, np.float32), out)
    np.full(100_000, -1, np.float32)
    plan.replay()
    np.testing.assert_array_equal(out, 3)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "sigmoid", "tanh", "gelu"])
def test_fusion_merges_neighbours(activation, compiled):
    fused = names(make_trainer([fnn.Dense(5, activation), fnn.Dense(4)]).plan)
    assert f"dense_forward + {activation}_forward" in fused
    assert f"dense_backward_x + {activation}_backward" in fused
    assert fused.count("dense_backward_w + sgd_update") == 3
    assert "sgd_update" not in fused
    plain = names(make_trainer([fnn.Dense(5, activation), fnn.Dense(4)], fuse=False).plan)
    assert not [name for name in plain if "+" in name]
    assert plain.count("sgd_update") == 1


@pytest.mark.parametrize("optimizer", [fnn.SGD(0.1, momentum=0.9), fnn.Adam(1e-3), fnn.RMSProp()])
def test_only_plain_sgd_goes_into_the_product(optimizer, compiled):
    fused = names(make_trainer([fnn.Dense(5, "relu")], optimizer=optimizer).plan)
    assert [name for name in fused if name.endswith("_update")]
    assert not [name for name in fused if "dense_backward_w +" in name]


def test_sgd_stays_apart_where_a_step_is_long_enough_to_be_interrupted(compiled):
    trainer = make_trainer([fnn.Dense(700, "relu")], features=700, samples=1000, batch=1000)
    assert trainer.plan.table()[-2]["name"] == "sgd_update"


def test_past_the_end_of_the_data(compiled):
    trainer = make_trainer([fnn.Dense(5, "relu")])
    assert trainer.plan.replay(6) == 6
    weights = trainer.model.theta.copy()
    with pytest.raises(IndexError, match="after 0 of 1 steps the clock is past"):
        trainer.plan.replay()
    trainer.clock[:] = 0
    trainer.clock[0] = 30
    with pytest.raises(IndexError, match="after 3 of 6 steps"):
        trainer.plan.replay(6)
    trainer.clock[0] = -1
    with pytest.raises(IndexError):
        trainer.plan.replay()
    assert not np.array_equal(weights, trainer.model.theta)
    assert np.isfinite(trainer.model.theta).all()


def test_a_loss_that_is_not_finite_stops_before_the_update(compiled):
    for fuse in (True, False):
        trainer = make_trainer([fnn.Dense(5, "relu")], fuse=fuse)
        trainer.data.x[:] = np.inf
        before = trainer.model.theta.copy()
        assert trainer.plan.replay(4) == 0
        assert trainer.plan.stopped
        np.testing.assert_array_equal(trainer.model.theta, before)
        assert trainer.clock.tolist() == [0, 0, 0]


def test_replay_of_nothing(compiled):
    trainer = make_trainer([])
    assert trainer.plan.replay(0) == 0
    assert trainer.plan.replay(-3) == 0
    assert compiled.Plan().replay() == 0


def test_replay_returns_in_time(compiled):
    plan, clock = compiled.Plan(), np.zeros(3, np.int64)
    with plan.capture():
        compiled.advance(1, clock)
    done = plan.replay(10**9, budget=0.02)  # all of them would take many seconds
    assert 0 < done == clock[1] < 10**9


def test_profile_and_table(compiled):
    trainer = make_trainer([fnn.Dense(5, "relu")])
    plan = trainer.plan
    assert all(row["seconds"] is None for row in plan.table())
    assert "GFLOP/s" not in str(plan)
    assert plan.profile(6) == 6
    assert all(row["seconds"] > 0 for row in plan.table())
    text = str(plan)
    assert "GFLOP/s" in text
    assert f"a step of {len(plan)} ops" in text
    forward = plan.table()[2]
    assert forward["name"] == "dense_forward + relu_forward"
    assert (10, 12) in forward["shapes"]
    assert forward["flops"] == pytest.approx(2 * 10 * 12 * 5, rel=0.5)
    gather = plan.table()[0]
    assert gather["bytes"] == 2 * 4 * 10 * 12
    assert gather["flops"] == 0


def test_profiling_begins_the_data_anew(compiled):
    trainer = make_trainer([fnn.Dense(5, "relu")])
    assert trainer.plan.replay(2) == 2
    assert trainer.plan.profile(13) == 13  # of 6 an epoch
    assert trainer.clock.tolist() == [20, 15, 2]
    assert trainer.plan.replay(4) == 4
    with pytest.raises(IndexError):
        trainer.plan.replay()


def test_profiling_goes_through_all_data_however_long_a_step_is(compiled):
    trainer = make_trainer([fnn.Dense(800)], features=800, samples=12000, batch=3000)
    trainer.losses[:] = np.nan
    assert trainer.plan.profile(4) == 4
    assert np.isfinite(trainer.losses).all()
    assert trainer.clock.tolist() == [0, 4, 0]


def test_profiling_of_nothing(compiled):
    empty = compiled.Plan()
    assert empty.profile(3) == 0
    assert not empty.stopped
    trainer = make_trainer([fnn.Dense(5)])
    assert trainer.plan.profile(0) == 0
    assert trainer.clock.tolist() == [0, 0, 0]


def test_a_plan_that_runs_is_not_profiled(compiled):
    plan, clock = compiled.Plan(), np.zeros(3, np.int64)
    with plan.capture():
        compiled.advance(1, clock)
    thread = threading.Thread(target=plan.replay, args=(10**9, 0.5))
    thread.start()
    refused = 0
    while thread.is_alive():
        if clock[1] > 0:
            try:
                plan.profile()
                break  # it had just ended
            except RuntimeError as error:
                assert "already running" in str(error)
                refused += 1
    thread.join()
    assert refused
    assert clock[0] in (clock[1], clock[1] - 1) and clock[0] == clock[2]


def test_profiling_changes_no_bit(compiled):
    plain, profiled = make_trainer([fnn.Dense(5, "tanh")]), make_trainer([fnn.Dense(5, "tanh")])
    plain.plan.replay(6)
    profiled.plan.profile(6)
    np.testing.assert_array_equal(plain.model.theta, profiled.model.theta)


@pytest.mark.parametrize("threads", [1, 2, 3, 8, 17])
@pytest.mark.parametrize(
    "optimizer", [fnn.SGD(0.1), fnn.SGD(0.1, 0.9), fnn.RMSProp(), fnn.Adam()], ids=repr
)
def test_shared_ops_give_the_same_bits(optimizer, threads, compiled):
    """Large enough that every op is shared between threads."""
    results = []
    for n in (1, threads):
        fnn.set_num_threads(n)
        trainer = make_trainer(
            [fnn.Dense(300, "gelu"), fnn.Dropout(0.2), fnn.Dense(257, "relu"), fnn.Dense(129)],
            features=300,
            samples=256,
            batch=64,
            optimizer=optimizer,
        )
        before = trainer.model.theta.copy()
        assert trainer.plan.replay(4, budget=60) == 4
        assert not np.array_equal(trainer.model.theta, before)
        results.append(trainer.model.theta.copy())
    np.testing.assert_array_equal(*results)


def test_trials_find_out_that_there_are_too_many_threads(compiled):
    """Of far more than processors at most half are left, sooner or later, and no bit changes."""

    def start(threads):
        fnn.set_num_threads(threads)
        optimizer, layers = fnn.SGD(1e-4), [fnn.Dense(128)]
        return make_trainer(layers, features=784, samples=3000, batch=1, optimizer=optimizer)

    def one_pass(trainer):
        trainer.clock[:] = 0
        assert trainer.plan.replay(3000, budget=600) == 3000

    most, passes, until = min(16 * os.cpu_count(), 256), 0, time.monotonic() + 60
    many = start(most)
    assert many.plan.threads == 0
    while many.plan.threads not in range(1, most // 2 + 1):
        assert time.monotonic() < until, f"{many.plan.threads} of {most} threads are left"
        one_pass(many)
        passes += 1
    alone = start(1)
    for _ in range(passes):
        one_pass(alone)
    np.testing.assert_array_equal(many.model.theta, alone.model.theta)


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
            assert any("delayed" in name for name in names(plan)) == (how == "apart")
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


def test_a_running_plan_is_not_run_twice(compiled):
    trainer = make_trainer([fnn.Dense(900)], features=900, samples=4096, batch=4096)
    errors = []

    def replay():
        try:
            trainer.clock[0] = 0
            trainer.plan.replay()
        except RuntimeError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=replay) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert set(errors) == {"this plan is already running in another thread"}
    trainer.clock[0] = trainer.clock[2] = 0
    assert trainer.plan.replay() == 1


def test_a_long_step_is_interrupted_inside(compiled):
    """It takes so long that Ctrl-C must not wait for its end, and must leave nothing of it."""
    fnn.set_num_threads(2)
    n = 8000
    trainer = make_trainer([fnn.Dense(1200, "relu")], features=800, samples=n, batch=n)
    before = trainer.model.theta.copy()
    for delay in (0.005, 0.03):
        with ctrl_c_after(delay):
            trainer.plan.replay()
        assert trainer.clock.tolist() == [0, 0, 0]
        np.testing.assert_array_equal(trainer.model.theta, before)
    assert trainer.plan.replay() == 1
    assert not np.array_equal(trainer.model.theta, before)


def test_a_layer_that_records_nothing_is_refused(compiled):
    class Wrong(fnn.Layer):
        records = True
        right_forward = False

        def forward(self, k, x, out, saved):
            if self.right_forward:
                k.relu_forward(x.reshape(-1), out.reshape(-1))
            else:
                out[...] = 2 * x

        def backward(self, k, dout, x, out, dx, saved):
            dx[...] = dout

    x, y = np.ones((8, 3), np.float32), np.zeros(8, np.int64)
    with pytest.raises(ValueError, match=r"layer 1 \(Wrong\): forward .*records = False"):
        fnn.Sequential([fnn.Dense(3), Wrong()], 3).predict(x)
    with pytest.raises(ValueError, match=r"layer 1 \(Wrong\): forward .*records = False"):
        fnn.Sequential([fnn.Dense(3), Wrong()], 3).fit(x, y, verbose=0)
    Wrong.right_forward = True
    with pytest.raises(ValueError, match=r"layer 1 \(Wrong\): backward .*records = False"):
        fnn.Sequential([fnn.Dense(3), Wrong()], 3).fit(x, y, verbose=0)


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


@pytest.mark.parametrize("fuse", [False, True])
def test_steps_of_one_sample_end_with_the_data(fuse, compiled):
    rng = np.random.default_rng(0)
    data, target = rng.standard_normal((5, 40), np.float32), np.ones((1, 8), np.float32)
    x, out, dout = (np.zeros((1, n), np.float32) for n in (40, 8, 8))
    theta, grad = np.zeros((2, 328), np.float32)
    loss, lr, clock = np.zeros(1, np.float32), np.full(1, 0.1, np.float32), np.zeros(3, np.int64)
    plan = compiled.Plan()
    with plan.capture():
        compiled.gather_rows(data, None, 1.0, clock, x)
        compiled.dense_forward(x, theta[:320].reshape(40, 8), theta[320:], out)
        compiled.mean_squared_error(out, target, None, dout, loss)
        dw = grad[:320].reshape(40, 8)
        compiled.dense_backward(dout, x, theta[:320].reshape(40, 8), None, dw, grad[320:])
        compiled.sgd_update(grad, lr, 0.0, False, clock, None, theta)
        compiled.advance(1, clock)
    if fuse:
        compiled.fuse(plan)
    with pytest.raises(IndexError, match="after 5 of 9 steps"):
        plan.replay(9)


def test_a_signal_handler_may_compute_during_a_step(compiled):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 1500, 1500), np.float32)
    small = rng.standard_normal((300, 300), np.float32)
    wanted, out, calls = np.empty_like(a), np.empty_like(a), []
    compiled.gemm_nn(a, b, wanted)

    def handler(*_):
        calls.append(np.empty_like(small))
        compiled.gemm_nn(small, small, calls[-1])
        signal.setitimer(signal.ITIMER_REAL, 0.001)  # the next one, not before this one's end

    previous = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    try:
        for _ in range(1000):
            compiled.gemm_nn(a, b, out)
            np.testing.assert_array_equal(out, wanted)
            if len(calls) > 20:
                break
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert len(calls) > 20


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_last_op_of_a_long_step_is_finished_by_all(threads, compiled):
    """Share 0 may be done, and end the run, while others still compute."""
    fnn.set_num_threads(threads)
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 900, 900), np.float32)
    out = np.empty_like(a)
    plan = compiled.Plan()
    with plan.capture():
        compiled.gemm_nn(a, b, out)
    for _ in range(5):
        out[...] = np.nan
        assert plan.replay() == 1
        np.testing.assert_allclose(out, a @ b, atol=2e-3)

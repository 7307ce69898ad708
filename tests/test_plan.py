"""The recorded step: capture, replay, profile, and what may go wrong in each."""

import os
import signal
import threading
import time

import numpy as np
import pytest
from conftest import ctrl_c_after, make_trainer

import fastnn as fnn


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

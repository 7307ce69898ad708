"""Optimizers: checks in front of csrc/optimizer.c."""

from fastnn.kernels.checks cimport fixed, same
from fastnn.kernels.csrc cimport *
from fastnn.kernels.plan cimport submit


cdef check_step(
    str kernel, const float[::1] grad, const float[::1] lr, const int64_t[::1] clock, float[::1] theta
):
    fixed(kernel, "clock", clock.shape[0], 3)
    same(kernel, "theta", theta.shape[0], "grad", grad.shape[0])
    if lr.shape[0] == 0:
        raise ValueError(f"{kernel}: lr has shape (0,), expected at least one rate")


def sgd_update(
    const float[::1] grad not None, const float[::1] lr not None, float momentum, bint nesterov,
    const int64_t[::1] clock not None, float[::1] velocity, float[::1] theta not None,
):
    """velocity = momentum * velocity + grad; theta -= lr * velocity (nesterov: grad + momentum * velocity).

    Shapes: grad, velocity and theta (n,), lr (L,), clock (3,) int64; velocity None where momentum is 0.
    """
    cdef fnn_sgd_update_args args
    check_step("sgd_update", grad, lr, clock, theta)
    if (velocity is None) != (momentum == 0):
        raise ValueError(
            f"sgd_update: velocity must be None exactly where momentum ({momentum}) is 0"
        )
    if velocity is not None:
        same("sgd_update", "velocity", velocity.shape[0], "grad", grad.shape[0])
    args.grad, args.lr, args.lr_len = &grad[0], &lr[0], lr.shape[0]
    args.momentum, args.nesterov, args.clock = momentum, nesterov, &clock[0]
    args.velocity = NULL if velocity is None else &velocity[0]
    args.theta, args.n, args.n_cuts, args.cuts = &theta[0], theta.shape[0], 0, NULL
    submit(
        FNN_OP_sgd_update, &args, sizeof(args), 8.0 * args.n, (grad.base, lr.base, clock.base),
        (None if velocity is None else velocity.base, theta.base),
    )


def rmsprop_update(
    const float[::1] grad not None, const float[::1] lr not None, double rho, float eps,
    const int64_t[::1] clock not None, float[::1] sq not None, float[::1] theta not None,
):
    """sq = rho * sq + (1 - rho) * grad**2; theta -= lr * grad / (sqrt(sq) + eps).

    Shapes: grad, sq and theta (n,), lr (L,), clock (3,) int64.
    """
    cdef fnn_rmsprop_update_args args
    check_step("rmsprop_update", grad, lr, clock, theta)
    same("rmsprop_update", "sq", sq.shape[0], "grad", grad.shape[0])
    args.grad, args.lr, args.lr_len = &grad[0], &lr[0], lr.shape[0]
    args.rho, args.eps, args.clock = rho, eps, &clock[0]
    args.sq, args.theta, args.n, args.n_cuts, args.cuts = &sq[0], &theta[0], theta.shape[0], 0, NULL
    submit(
        FNN_OP_rmsprop_update, &args, sizeof(args), 25.0 * args.n,
        (grad.base, lr.base, clock.base), (sq.base, theta.base),
    )


def adam_update(
    const float[::1] grad not None, const float[::1] lr not None, double beta1, double beta2, float eps,
    float weight_decay, const int64_t[::1] clock not None, float[::1] m not None, float[::1] v not None,
    float[::1] theta not None,
):
    """Adam, bias-corrected, with AdamW's decoupled weight decay; see `fastnn.reference.adam_update`.

    Shapes: grad, m, v and theta (n,), lr (L,), clock (3,) int64.
    """
    cdef fnn_adam_update_args args
    check_step("adam_update", grad, lr, clock, theta)
    same("adam_update", "m", m.shape[0], "grad", grad.shape[0])
    same("adam_update", "v", v.shape[0], "grad", grad.shape[0])
    args.grad, args.lr, args.lr_len = &grad[0], &lr[0], lr.shape[0]
    args.beta1, args.beta2, args.eps, args.weight_decay = beta1, beta2, eps, weight_decay
    args.clock, args.m, args.v, args.theta = &clock[0], &m[0], &v[0], &theta[0]
    args.n, args.n_cuts, args.cuts = theta.shape[0], 0, NULL
    submit(
        FNN_OP_adam_update, &args, sizeof(args), 30.0 * args.n,
        (grad.base, lr.base, clock.base), (m.base, v.base, theta.base),
    )

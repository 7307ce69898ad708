"""Losses: checks in front of csrc/loss.c."""

from fastnn.kernels.checks cimport fixed, same_2d
from fastnn.kernels.csrc cimport *
from fastnn.kernels.plan cimport capturing, submit

cdef enum:
    ROW_WORK = 50 # rough operations an element, as in elementwise.pyx


cdef check_labels(const int32_t[::1] labels, const float[::1] weights, Py_ssize_t classes):
    cdef Py_ssize_t i
    for i in range(labels.shape[0]):
        if not 0 <= labels[i] < classes and (weights is None or weights[i] != 0):
            raise ValueError(
                f"softmax_cross_entropy: label {labels[i]} is not in [0, {classes})"
            )


cdef check_loss(
    str kernel, const float[:, ::1] x, const float[::1] weights, float[:, ::1] dx, float[::1] loss
):
    """The checks that all losses share."""
    if weights is not None and weights.shape[0] != x.shape[0]:
        raise ValueError(
            f"{kernel}: weights of shape {(weights.shape[0],)} does not fit x of shape "
            f"{(x.shape[0], x.shape[1])}"
        )
    same_2d(kernel, "dx", dx, "x", x)
    fixed(kernel, "loss", loss.shape[0], 1)
    if x.shape[0] * x.shape[1] == 0:
        raise ValueError(
            f"{kernel}: x has shape {(x.shape[0], x.shape[1])}; a mean needs at least one element"
        )


def softmax_cross_entropy(
    const float[:, ::1] x not None, const int32_t[::1] labels not None, const float[::1] weights,
    float[:, ::1] dx, float[::1] loss not None, int64_t[::1] correct not None,
):
    """loss = -sum(weights * log(softmax(x))[i, labels[i]]) / count(weights != 0), dx its gradient, correct = hits.

    Shapes: x and dx (N, C), labels (N,) int32, weights (N,) or None (all 1), loss (1,), correct (1,) int64.
    dx None: not computed.
    """
    cdef fnn_softmax_cross_entropy_args args
    if labels.shape[0] != x.shape[0]:
        raise ValueError(
            f"softmax_cross_entropy: labels of shape {(labels.shape[0],)} does not fit x of shape "
            f"{(x.shape[0], x.shape[1])}"
        )
    check_loss("softmax_cross_entropy", x, weights, dx, loss)
    fixed("softmax_cross_entropy", "correct", correct.shape[0], 1)
    if not capturing():
        check_labels(labels, weights, x.shape[1])
    args.x, args.labels, args.loss, args.correct = &x[0, 0], &labels[0], &loss[0], &correct[0]
    args.weights = NULL
    if weights is not None:
        args.weights = &weights[0]
    args.dx = NULL if dx is None else &dx[0, 0]
    args.n, args.c = x.shape[0], x.shape[1]
    submit(
        FNN_OP_softmax_cross_entropy, &args, sizeof(args), <double>ROW_WORK * args.n * args.c,
        (x.base, labels.base, None if weights is None else weights.base),
        (None if dx is None else dx.base, loss.base, correct.base),
    )


def softmax_cross_entropy_soft(
    const float[:, ::1] x not None, const float[:, ::1] target not None, const float[::1] weights,
    float[:, ::1] dx, float[::1] loss not None, int64_t[::1] correct not None,
):
    """loss = -sum(weights * sum(target * log(softmax(x)))) / count(weights != 0), dx its gradient, correct = hits.

    Shapes: x, target and dx (N, C), weights (N,) or None (all 1), loss (1,), correct (1,) int64.
    dx None: not computed.
    """
    cdef fnn_softmax_cross_entropy_soft_args args
    same_2d("softmax_cross_entropy_soft", "target", target, "x", x)
    check_loss("softmax_cross_entropy_soft", x, weights, dx, loss)
    fixed("softmax_cross_entropy_soft", "correct", correct.shape[0], 1)
    args.x, args.target, args.loss, args.correct = &x[0, 0], &target[0, 0], &loss[0], &correct[0]
    args.weights = NULL
    if weights is not None:
        args.weights = &weights[0]
    args.dx = NULL if dx is None else &dx[0, 0]
    args.n, args.c = x.shape[0], x.shape[1]
    submit(
        FNN_OP_softmax_cross_entropy_soft, &args, sizeof(args), <double>ROW_WORK * args.n * args.c,
        (x.base, target.base, None if weights is None else weights.base),
        (None if dx is None else dx.base, loss.base, correct.base),
    )


cdef elementwise_loss(
    str kernel, fnn_op op, double work, const float[:, ::1] x, const float[:, ::1] target, float delta,
    const float[::1] weights, float[:, ::1] dx, float[::1] loss, int64_t[::1] correct,
):
    """A loss that is a mean over elements; `correct` is of binary_cross_entropy, or None."""
    cdef fnn_elementwise_loss_args args
    same_2d(kernel, "target", target, "x", x)
    check_loss(kernel, x, weights, dx, loss)
    args.x, args.target, args.delta, args.loss = &x[0, 0], &target[0, 0], delta, &loss[0]
    args.weights = NULL
    if weights is not None:
        args.weights = &weights[0]
    args.dx = NULL if dx is None else &dx[0, 0]
    args.correct = NULL if correct is None else &correct[0]
    args.n, args.f = x.shape[0], x.shape[1]
    submit(
        op, &args, sizeof(args), work * args.n * args.f,
        (x.base, target.base, None if weights is None else weights.base),
        (
            None if dx is None else dx.base, loss.base,
            None if correct is None else correct.base,
        ),
    )


def mean_squared_error(
    const float[:, ::1] x not None, const float[:, ::1] target not None, const float[::1] weights,
    float[:, ::1] dx, float[::1] loss not None,
):
    """loss = sum(weights * mean((x - target)**2, axis=1)) / count(weights != 0), dx its gradient.

    Shapes: x, target and dx (N, F), weights (N,) or None (all 1), loss (1,). dx None: not computed.
    """
    elementwise_loss(
        "mean_squared_error", FNN_OP_mean_squared_error, 4, x, target, 0, weights, dx, loss, None
    )


def mean_absolute_error(
    const float[:, ::1] x not None, const float[:, ::1] target not None, const float[::1] weights,
    float[:, ::1] dx, float[::1] loss not None,
):
    """loss = sum(weights * mean(abs(x - target), axis=1)) / count(weights != 0), dx its gradient.

    Shapes: x, target and dx (N, F), weights (N,) or None (all 1), loss (1,). dx None: not computed.
    """
    elementwise_loss(
        "mean_absolute_error", FNN_OP_mean_absolute_error, 4, x, target, 0, weights, dx, loss, None
    )


def huber(
    const float[:, ::1] x not None, const float[:, ::1] target not None, float delta,
    const float[::1] weights, float[:, ::1] dx, float[::1] loss not None,
):
    """loss = sum(weights * mean(h(x - target), axis=1)) / count(weights != 0), dx its gradient.

    h(d) = d**2 / 2 where abs(d) <= delta, else delta * (abs(d) - delta / 2).
    Shapes: x, target and dx (N, F), weights (N,) or None (all 1), loss (1,). dx None: not computed.
    """
    if not 0 < delta < float("inf"):
        raise ValueError(f"huber: delta must be positive and finite, got {delta}")
    elementwise_loss("huber", FNN_OP_huber, 5, x, target, delta, weights, dx, loss, None)


def binary_cross_entropy(
    const float[:, ::1] x not None, const float[:, ::1] target not None, const float[::1] weights,
    float[:, ::1] dx, float[::1] loss not None, int64_t[::1] correct not None,
):
    """loss = sum(weights * mean(log(1 + exp(x)) - target * x, axis=1)) / count(weights != 0), dx its gradient.

    correct = elements for which (x > 0) == (target > 0.5).
    Shapes: x, target and dx (N, F), weights (N,) or None (all 1), loss (1,), correct (1,) int64.
    dx None: not computed.
    """
    fixed("binary_cross_entropy", "correct", correct.shape[0], 1)
    elementwise_loss(
        "binary_cross_entropy", FNN_OP_binary_cross_entropy, ROW_WORK, x, target, 0, weights, dx, loss,
        correct,
    )

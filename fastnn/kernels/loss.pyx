"""Losses: checks in front of csrc/loss.c."""

from fastnn.kernels.checks cimport fixed, same, same_2d
from fastnn.kernels.csrc cimport *
from fastnn.kernels.plan cimport capturing, submit

cdef enum:
    ROW_WORK = 50 # rough operations an element, as in elementwise.pyx


cdef check_not_empty(str kernel, x, Py_ssize_t size):
    if size == 0:
        raise ValueError(f"{kernel}: x has shape {x.shape}; a mean needs at least one element")


cdef check_labels(const int32_t[::1] labels, Py_ssize_t classes):
    cdef Py_ssize_t i
    for i in range(labels.shape[0]):
        if not 0 <= labels[i] < classes:
            raise ValueError(
                f"softmax_cross_entropy: label {labels[i]} is not in [0, {classes})"
            )


def softmax_cross_entropy(
    const float[:, ::1] x not None, const int32_t[::1] labels not None, float[:, ::1] dx,
    float[::1] loss not None, int64_t[::1] correct not None,
):
    """loss = -mean(log(softmax(x))[i, labels[i]]), dx its gradient (None: not computed), correct = hits.

    Shapes: x and dx (N, C), labels (N,) int32, loss (1,), correct (1,) int64.
    """
    cdef fnn_softmax_cross_entropy_args args
    if labels.shape[0] != x.shape[0]:
        raise ValueError(
            f"softmax_cross_entropy: labels of shape {(labels.shape[0],)} does not fit x of shape "
            f"{(x.shape[0], x.shape[1])}"
        )
    same_2d("softmax_cross_entropy", "dx", dx, "x", x)
    fixed("softmax_cross_entropy", "loss", loss.shape[0], 1)
    fixed("softmax_cross_entropy", "correct", correct.shape[0], 1)
    check_not_empty("softmax_cross_entropy", x.base, x.shape[0] * x.shape[1])
    if not capturing():
        check_labels(labels, x.shape[1])
    args.x, args.labels, args.loss, args.correct = &x[0, 0], &labels[0], &loss[0], &correct[0]
    args.dx = NULL if dx is None else &dx[0, 0]
    args.n, args.c = x.shape[0], x.shape[1]
    submit(
        FNN_OP_softmax_cross_entropy, &args, sizeof(args), <double>ROW_WORK * args.n * args.c,
        (x.base, labels.base), (None if dx is None else dx.base, loss.base, correct.base),
    )


def softmax_cross_entropy_soft(
    const float[:, ::1] x not None, const float[:, ::1] target not None, float[:, ::1] dx,
    float[::1] loss not None, int64_t[::1] correct not None,
):
    """loss = -mean(sum(target * log(softmax(x)))), dx its gradient (None: not computed), correct = hits.

    Shapes: x, target and dx (N, C), loss (1,), correct (1,) int64.
    """
    cdef fnn_softmax_cross_entropy_soft_args args
    same_2d("softmax_cross_entropy_soft", "target", target, "x", x)
    same_2d("softmax_cross_entropy_soft", "dx", dx, "x", x)
    fixed("softmax_cross_entropy_soft", "loss", loss.shape[0], 1)
    fixed("softmax_cross_entropy_soft", "correct", correct.shape[0], 1)
    check_not_empty("softmax_cross_entropy_soft", x.base, x.shape[0] * x.shape[1])
    args.x, args.target, args.loss, args.correct = &x[0, 0], &target[0, 0], &loss[0], &correct[0]
    args.dx = NULL if dx is None else &dx[0, 0]
    args.n, args.c = x.shape[0], x.shape[1]
    submit(
        FNN_OP_softmax_cross_entropy_soft, &args, sizeof(args), <double>ROW_WORK * args.n * args.c,
        (x.base, target.base), (None if dx is None else dx.base, loss.base, correct.base),
    )


def mean_squared_error(
    const float[::1] x not None, const float[::1] target not None, float[::1] dx, float[::1] loss not None
):
    """loss = mean((x - target)**2), dx = 2 (x - target) / n (None: not computed); loss (1,), others (n,)."""
    cdef fnn_mean_squared_error_args args
    same("mean_squared_error", "target", target.shape[0], "x", x.shape[0])
    if dx is not None:
        same("mean_squared_error", "dx", dx.shape[0], "x", x.shape[0])
    fixed("mean_squared_error", "loss", loss.shape[0], 1)
    check_not_empty("mean_squared_error", x.base, x.shape[0])
    args.x, args.target, args.loss, args.n = &x[0], &target[0], &loss[0], x.shape[0]
    args.dx = NULL if dx is None else &dx[0]
    submit(
        FNN_OP_mean_squared_error, &args, sizeof(args), 4.0 * args.n,
        (x.base, target.base), (None if dx is None else dx.base, loss.base),
    )

"""A step's bookkeeping (batch, log, clock): checks in front of csrc/step.c.

Rows and the clock are checked where a call runs now; of a recorded one the trainer answers for them.
"""

from fastnn.kernels.checks cimport fixed
from fastnn.kernels.csrc cimport *
from fastnn.kernels.plan cimport capturing, submit


cdef int64_t check_rows(
    str kernel, Py_ssize_t total, const int64_t[::1] rows, const int64_t[::1] clock, Py_ssize_t n
) except -1:
    """Returns how many rows an epoch has."""
    cdef int64_t available = total if rows is None else rows.shape[0]
    cdef int64_t first, i
    fixed(kernel, "clock", clock.shape[0], 3)
    if capturing():
        return available
    first = clock[0]
    if not 0 <= first <= available - n:
        raise ValueError(
            f"{kernel}: rows {first} to {first + n} (clock[0], and n of them) are not all in [0, {available})"
        )
    if rows is not None:
        for i in range(first, first + n):
            if not 0 <= rows[i] < total:
                raise ValueError(f"{kernel}: row {rows[i]} is not in [0, {total})")
    return available


def gather_rows(
    data not None, const int64_t[::1] rows, float scale, const int64_t[::1] clock not None,
    float[:, ::1] out not None,
):
    """out[i] = data[rows[clock[0] + i]] * scale.

    Shapes: data (M, F) float32 or uint8, rows (R,) int64 or None (0, 1, ...), clock (3,) int64, out (N, F).
    """
    cdef fnn_gather_rows_args args
    cdef const float[:, ::1] floats
    cdef const unsigned char[:, ::1] bytes_
    args.is_u8 = memoryview(data).format == "B"
    if args.is_u8:
        bytes_ = data
        args.data = &bytes_[0, 0]
    else:
        floats = data
        args.data = &floats[0, 0]
    if data.shape[1] != out.shape[1]:
        raise ValueError(
            f"gather_rows: out of shape {(out.shape[0], out.shape[1])} does not fit data of shape {data.shape}"
        )
    args.limit = check_rows("gather_rows", data.shape[0], rows, clock, out.shape[0])
    args.rows = NULL
    if rows is not None:
        args.rows = &rows[0]
    args.scale, args.clock, args.out = scale, &clock[0], &out[0, 0]
    args.n, args.f = out.shape[0], out.shape[1]
    submit(
        # rows come from anywhere in memory: some 20 operations' time for an element
        FNN_OP_gather_rows, &args, sizeof(args), 20.0 * args.n * args.f,
        (data, None if rows is None else rows.base, clock.base), (out.base,),
    )


def gather_labels(
    const int32_t[:, ::1] labels not None, const int64_t[::1] rows, const int64_t[::1] clock not None,
    int32_t[:, ::1] out not None,
):
    """out[i] = labels[rows[clock[0] + i]].

    Shapes: labels (M, P) int32, rows (R,) int64 or None (0, 1, ...), clock (3,) int64, out (N, P) int32.
    """
    cdef fnn_gather_labels_args args
    args.limit = check_rows("gather_labels", labels.shape[0], rows, clock, out.shape[0])
    if labels.shape[1] != out.shape[1]:
        raise ValueError(
            f"gather_labels: out of shape {tuple(out.base.shape)} does not fit labels of shape {tuple(labels.base.shape)}"
        )
    args.labels, args.clock, args.out = &labels[0, 0], &clock[0], &out[0, 0]
    args.n, args.p = out.shape[0], out.shape[1]
    args.rows = NULL
    if rows is not None:
        args.rows = &rows[0]
    submit(
        FNN_OP_gather_labels, &args, sizeof(args), args.n * args.p,
        (labels.base, None if rows is None else rows.base, clock.base), (out.base,),
    )


def log_step(
    const float[::1] loss not None, const int64_t[::1] correct, const int64_t[::1] clock not None,
    float[::1] losses not None, int64_t[::1] corrects,
):
    """losses[clock[2]] = loss, corrects[clock[2]] = correct; in a plan, a loss that is not finite ends it.

    Shapes: loss (1,), correct (1,) int64 or None, clock (3,) int64, losses (B,), corrects (B,) int64 or None.
    """
    cdef fnn_log_step_args args
    fixed("log_step", "loss", loss.shape[0], 1)
    fixed("log_step", "clock", clock.shape[0], 3)
    if (correct is None) != (corrects is None):
        raise ValueError("log_step: correct and corrects must both be given, or both be None")
    if correct is not None:
        fixed("log_step", "correct", correct.shape[0], 1)
        fixed("log_step", "corrects", corrects.shape[0], losses.shape[0])
    if not capturing() and not 0 <= clock[2] < losses.shape[0]:
        raise ValueError(f"log_step: batch {clock[2]} (clock[2]) is not in [0, {losses.shape[0]})")
    args.limit = losses.shape[0]
    args.loss, args.clock, args.losses = &loss[0], &clock[0], &losses[0]
    args.correct = NULL
    if correct is not None:
        args.correct = &correct[0]
    args.corrects = NULL if corrects is None else &corrects[0]
    submit(
        FNN_OP_log_step, &args, sizeof(args), 1,
        (loss.base, None if correct is None else correct.base, clock.base),
        (losses.base, None if corrects is None else corrects.base),
    )


def advance(int64_t n, int64_t[::1] clock not None):
    """clock += [n, 1, 1], for clock (3,) int64."""
    cdef fnn_advance_args args
    fixed("advance", "clock", clock.shape[0], 3)
    if n < 0:
        raise ValueError(f"advance: n must not be negative, got {n}")
    args.n, args.clock = n, &clock[0]
    submit(FNN_OP_advance, &args, sizeof(args), 1, (), (clock.base,))

"""Products and the dense layer: shape checks in front of csrc/gemm.c."""

from libc.string cimport memset

from fastnn.kernels.csrc cimport *
from fastnn.kernels.plan cimport submit


cdef check_product(str kernel, str formula, a, b, out, tuple m, tuple k, tuple n):
    """m, k, n: each dimension as its two arrays have it."""
    if m[0] != m[1] or k[0] != k[1] or n[0] != n[1]:
        raise ValueError(
            f"{kernel}: shapes {tuple(a.shape)}, {tuple(b.shape)} and {tuple(out.shape)} do not fit {formula}"
        )


def gemm_nn(const float[:, ::1] a not None, const float[:, ::1] b not None, float[:, ::1] out not None):
    """out = a @ b, for a (M, K), b (K, N), out (M, N)."""
    check_product(
        "gemm_nn", "a (M, K) @ b (K, N) = out (M, N)", a.base, b.base, out.base,
        (a.shape[0], out.shape[0]), (a.shape[1], b.shape[0]), (b.shape[1], out.shape[1]),
    )
    run_gemm(a, b, out, a.shape[1], False, False)


def gemm_nt(const float[:, ::1] a not None, const float[:, ::1] b not None, float[:, ::1] out not None):
    """out = a @ b.T, for a (M, K), b (N, K), out (M, N)."""
    check_product(
        "gemm_nt", "a (M, K) @ b (N, K).T = out (M, N)", a.base, b.base, out.base,
        (a.shape[0], out.shape[0]), (a.shape[1], b.shape[1]), (b.shape[0], out.shape[1]),
    )
    run_gemm(a, b, out, a.shape[1], False, True)


def gemm_tn(const float[:, ::1] a not None, const float[:, ::1] b not None, float[:, ::1] out not None):
    """out = a.T @ b, for a (K, M), b (K, N), out (M, N)."""
    check_product(
        "gemm_tn", "a (K, M).T @ b (K, N) = out (M, N)", a.base, b.base, out.base,
        (a.shape[1], out.shape[0]), (a.shape[0], b.shape[0]), (b.shape[1], out.shape[1]),
    )
    run_gemm(a, b, out, a.shape[0], True, False)


cdef run_gemm(
    const float[:, ::1] a, const float[:, ::1] b, float[:, ::1] out, int64_t k, bint transpose_a, bint transpose_b
):
    cdef fnn_gemm_args args
    args.a = &a[0, 0]
    args.b = &b[0, 0]
    args.out = &out[0, 0]
    args.m, args.n, args.k = out.shape[0], out.shape[1], k
    args.transpose_a, args.transpose_b = transpose_a, transpose_b
    submit(FNN_OP_gemm, &args, sizeof(args), 2.0 * args.m * args.n * k, (a.base, b.base), (out.base,))


cdef sum_rows(const float[:, ::1] x, int64_t start, object out, float *to, int64_t n):
    """to (n,) = the sum over rows of columns [start, start + n) of x; `out` is the array behind `to`."""
    cdef fnn_sum_rows_args args
    args.x, args.stride, args.out, args.n, args.c = &x[0, start], x.shape[1], to, x.shape[0], n
    submit(FNN_OP_sum_rows, &args, sizeof(args), <double>args.n * args.c, (x.base,), (out,))


cdef check_dense(str kernel, const float[:, ::1] x, const float[:, ::1] w, const float[::1] b, const float[:, ::1] out):
    if (
        x.shape[1] != w.shape[0]
        or out.shape[0] != x.shape[0]
        or out.shape[1] != w.shape[1]
        or (b is not None and b.shape[0] != w.shape[1])
    ):
        bias = "no bias" if b is None else f"b {(b.shape[0],)}"
        raise ValueError(
            f"{kernel}: shapes x {(x.shape[0], x.shape[1])}, w {(w.shape[0], w.shape[1])}, {bias}, "
            f"out {(out.shape[0], out.shape[1])} do not fit x (N, I) @ w (I, O) + b (O,) = out (N, O)"
        )


def dense_forward(
    const float[:, ::1] x not None, const float[:, ::1] w not None, const float[::1] b, float[:, ::1] out not None
):
    """out = x @ w + b, for x (N, I), w (I, O), b (O,) or None, out (N, O)."""
    cdef fnn_dense_forward_args args
    check_dense("dense_forward", x, w, b, out)
    memset(&args, 0, sizeof(args)) # what fusion sets
    args.x = &x[0, 0]
    args.w = &w[0, 0]
    args.out = &out[0, 0]
    args.b = NULL if b is None else &b[0]
    args.n, args.i, args.o = x.shape[0], w.shape[0], w.shape[1]
    submit(
        FNN_OP_dense_forward, &args, sizeof(args), 2.0 * args.n * args.i * args.o,
        (x.base, w.base, None if b is None else b.base), (out.base,),
    )


def dense_backward(
    const float[:, ::1] dout not None, const float[:, ::1] x not None, const float[:, ::1] w not None,
    float[:, ::1] dx, float[:, ::1] dw not None, float[::1] db,
):
    """dx = dout @ w.T, dw = x.T @ dout, db = dout.sum(0); dx or db None: not computed.

    Shapes: dout (N, O), x and dx (N, I), w and dw (I, O), db (O,).
    """
    cdef fnn_dense_backward_x_args for_x
    cdef fnn_dense_backward_w_args for_w
    check_dense("dense_backward", x, w, db, dout)
    memset(&for_x, 0, sizeof(for_x)) # what fusion sets
    memset(&for_w, 0, sizeof(for_w))
    if dw.shape[0] != w.shape[0] or dw.shape[1] != w.shape[1]:
        raise ValueError(f"dense_backward: dw {tuple(dw.base.shape)} must have w's shape {tuple(w.base.shape)}")
    cdef double work = 2.0 * x.shape[0] * w.shape[0] * w.shape[1]
    if dx is not None:
        if dx.shape[0] != x.shape[0] or dx.shape[1] != x.shape[1]:
            raise ValueError(f"dense_backward: dx {tuple(dx.base.shape)} must have x's shape {tuple(x.base.shape)}")
        for_x.dout = &dout[0, 0]
        for_x.w = &w[0, 0]
        for_x.dx = &dx[0, 0]
        for_x.n, for_x.i, for_x.o = x.shape[0], w.shape[0], w.shape[1]
        submit(FNN_OP_dense_backward_x, &for_x, sizeof(for_x), work, (dout.base, w.base), (dx.base,))
    for_w.dout = &dout[0, 0]
    for_w.x = &x[0, 0]
    for_w.dw = &dw[0, 0]
    for_w.db = NULL if db is None else &db[0]
    for_w.n, for_w.i, for_w.o = x.shape[0], w.shape[0], w.shape[1]
    submit(
        FNN_OP_dense_backward_w, &for_w, sizeof(for_w), work, (dout.base, x.base),
        (dw.base, None if db is None else db.base),
    )

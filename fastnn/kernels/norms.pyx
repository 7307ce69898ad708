"""Penalties and the norm of the gradient: checks in front of csrc/norms.c."""

from fastnn.kernels.checks cimport fixed, same
from fastnn.kernels.csrc cimport *
from fastnn.kernels.plan cimport submit


cdef check_alphas(str kernel, float l1, float l2):
    if not (0 <= l1 < float("inf") and 0 <= l2 < float("inf")):
        raise ValueError(f"{kernel}: l1 and l2 must be at least 0 and finite, got {l1} and {l2}")


def chunk_sums(const float[::1] x not None, float l1, float l2, double[::1] sums not None):
    """sums[i] = sum(l1 * abs(x) + l2 * x**2) over chunk i; x (n,), sums (ceil(n / 1024),) float64."""
    cdef fnn_chunk_sums_args args
    fixed("chunk_sums", "sums", sums.shape[0], (x.shape[0] + FNN_CHUNK - 1) // FNN_CHUNK)
    check_alphas("chunk_sums", l1, l2)
    args.x, args.l1, args.l2, args.sums, args.n = &x[0], l1, l2, &sums[0], x.shape[0]
    submit(FNN_OP_chunk_sums, &args, sizeof(args), 2.0 * args.n, (x.base,), (sums.base,))


def add_chunk_sums(const double[::1] sums not None, float[::1] loss not None):
    """loss += sum(sums); sums (P,) float64, loss (1,)."""
    cdef fnn_add_chunk_sums_args args
    fixed("add_chunk_sums", "loss", loss.shape[0], 1)
    args.sums, args.loss, args.n = &sums[0], &loss[0], sums.shape[0]
    submit(FNN_OP_add_chunk_sums, &args, sizeof(args), args.n, (sums.base,), (loss.base,))


def penalty_gradient(const float[::1] w not None, float l1, float l2, float[::1] dw not None):
    """dw += l1 * sign(w) + 2 * l2 * w; w and dw (n,)."""
    cdef fnn_penalty_gradient_args args
    same("penalty_gradient", "dw", dw.shape[0], "w", w.shape[0])
    check_alphas("penalty_gradient", l1, l2)
    args.w, args.l1, args.l2, args.dw, args.n = &w[0], l1, l2, &dw[0], w.shape[0]
    submit(FNN_OP_penalty_gradient, &args, sizeof(args), 8.0 * args.n, (w.base,), (dw.base,))


def clip_gradient(const double[::1] squares not None, double clip_norm, float[::1] grad not None):
    """grad *= min(1, clip_norm / sqrt(sum(squares))); squares (P,) float64, grad (n,)."""
    cdef fnn_clip_gradient_args args
    if not 0 < clip_norm < float("inf"):
        raise ValueError(f"clip_gradient: clip_norm must be positive and finite, got {clip_norm}")
    args.squares, args.chunks, args.clip_norm = &squares[0], squares.shape[0], clip_norm
    args.grad, args.n = &grad[0], grad.shape[0]
    submit(FNN_OP_clip_gradient, &args, sizeof(args), 4.0 * args.n, (squares.base,), (grad.base,))

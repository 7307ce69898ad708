"""Batch normalisation: shape checks in front of csrc/batchnorm.c."""

from fastnn.kernels.checks cimport fixed, same_2d
from fastnn.kernels.csrc cimport *
from fastnn.kernels.plan cimport submit

# rough operations an element
cdef enum:
    SUMS = 8
    PASS = 8


cdef check(str kernel, const float[:, ::1] x, float eps):
    if not 0 < eps < float("inf"):
        raise ValueError(f"{kernel}: eps must be positive and finite, got {eps}")
    if x.shape[0] == 0:
        raise ValueError(f"{kernel}: x has shape {(x.shape[0], x.shape[1])}, expected at least one row")


cdef check_scratch(str kernel, double[:, :, ::1] scratch, const float[:, ::1] x):
    cdef int64_t chunks = (x.shape[0] + FNN_BATCHNORM_ROWS - 1) // FNN_BATCHNORM_ROWS
    got = (scratch.shape[0], scratch.shape[1], scratch.shape[2])
    if got != (chunks, 2, x.shape[1]):
        raise ValueError(f"{kernel}: scratch has shape {got}, expected {(chunks, 2, x.shape[1])}")


cdef check_channels(str kernel, dict vectors, const float[:, ::1] x):
    for name, size in vectors.items():
        fixed(kernel, name, size, x.shape[1])


cdef normalise(
    const float[:, ::1] x, const float[::1] gamma, const float[::1] beta, const float[::1] mean,
    const float[::1] var, float eps, float[:, ::1] out,
):
    cdef fnn_batchnorm_forward_args args
    args.x, args.gamma, args.beta, args.mean, args.var = &x[0, 0], &gamma[0], &beta[0], &mean[0], &var[0]
    args.eps, args.out, args.n, args.c = eps, &out[0, 0], x.shape[0], x.shape[1]
    submit(
        FNN_OP_batchnorm_forward, &args, sizeof(args), <double>PASS * args.n * args.c,
        (x.base, gamma.base, beta.base, mean.base, var.base), (out.base,),
    )


def batchnorm_forward(
    const float[:, ::1] x not None, const float[::1] gamma not None, const float[::1] beta not None, float eps,
    double[:, :, ::1] scratch not None, float[::1] mean not None, float[::1] var not None,
    float[:, ::1] out not None,
):
    """mean, var = x.mean(0), x.var(0); out = (x - mean) / sqrt(var + eps) * gamma + beta.

    Shapes: x and out (N, C), gamma, beta, mean, var (C,), scratch (ceil(N / 256), 2, C) float64.
    """
    cdef fnn_batchnorm_sums_args sums
    cdef fnn_batchnorm_moments_args moments
    check("batchnorm_forward", x, eps)
    same_2d("batchnorm_forward", "out", out, "x", x)
    check_channels(
        "batchnorm_forward",
        {"gamma": gamma.shape[0], "beta": beta.shape[0], "mean": mean.shape[0], "var": var.shape[0]}, x,
    )
    check_scratch("batchnorm_forward", scratch, x)
    sums.dout, sums.x, sums.mean, sums.scratch = NULL, &x[0, 0], NULL, &scratch[0, 0, 0]
    sums.n, sums.c = x.shape[0], x.shape[1]
    submit(
        FNN_OP_batchnorm_sums, &sums, sizeof(sums), <double>SUMS * sums.n * sums.c, (x.base,), (scratch.base,)
    )
    moments.scratch, moments.mean, moments.var = &scratch[0, 0, 0], &mean[0], &var[0]
    moments.n, moments.c = x.shape[0], x.shape[1]
    submit(
        FNN_OP_batchnorm_moments, &moments, sizeof(moments), 8.0 * scratch.size,
        (scratch.base,), (mean.base, var.base),
    )
    normalise(x, gamma, beta, mean, var, eps, out)


def batchnorm_inference(
    const float[:, ::1] x not None, const float[::1] gamma not None, const float[::1] beta not None,
    const float[::1] mean not None, const float[::1] var not None, float eps, float[:, ::1] out not None,
):
    """out = (x - mean) / sqrt(var + eps) * gamma + beta; x and out (N, C), the others (C,)."""
    check("batchnorm_inference", x, eps)
    same_2d("batchnorm_inference", "out", out, "x", x)
    check_channels(
        "batchnorm_inference",
        {"gamma": gamma.shape[0], "beta": beta.shape[0], "mean": mean.shape[0], "var": var.shape[0]}, x,
    )
    normalise(x, gamma, beta, mean, var, eps, out)


def batchnorm_backward(
    const float[:, ::1] dout not None, const float[:, ::1] x not None, const float[::1] gamma not None,
    float eps, const float[::1] mean not None, const float[::1] var not None, double[:, :, ::1] scratch not None,
    float[:, ::1] dx, float[::1] dgamma not None, float[::1] dbeta not None,
):
    """Gradients of batchnorm_forward; dx None: not computed.

    Shapes: dout, x and dx (N, C), gamma, mean, var, dgamma, dbeta (C,), scratch (ceil(N / 256), 2, C) float64.
    """
    cdef fnn_batchnorm_sums_args sums
    cdef fnn_batchnorm_gradients_args gradients
    cdef fnn_batchnorm_backward_args args
    check("batchnorm_backward", x, eps)
    same_2d("batchnorm_backward", "dout", dout, "x", x)
    same_2d("batchnorm_backward", "dx", dx, "x", x)
    check_channels(
        "batchnorm_backward",
        {
            "gamma": gamma.shape[0], "mean": mean.shape[0], "var": var.shape[0],
            "dgamma": dgamma.shape[0], "dbeta": dbeta.shape[0],
        },
        x,
    )
    check_scratch("batchnorm_backward", scratch, x)
    sums.dout, sums.x, sums.mean, sums.scratch = &dout[0, 0], &x[0, 0], &mean[0], &scratch[0, 0, 0]
    sums.n, sums.c = x.shape[0], x.shape[1]
    submit(
        FNN_OP_batchnorm_sums, &sums, sizeof(sums), <double>SUMS * sums.n * sums.c,
        (dout.base, x.base, mean.base), (scratch.base,),
    )
    gradients.scratch, gradients.var, gradients.eps = &scratch[0, 0, 0], &var[0], eps
    gradients.dgamma, gradients.dbeta, gradients.n, gradients.c = &dgamma[0], &dbeta[0], x.shape[0], x.shape[1]
    submit(
        FNN_OP_batchnorm_gradients, &gradients, sizeof(gradients), 8.0 * scratch.size,
        (scratch.base, var.base), (dgamma.base, dbeta.base),
    )
    if dx is None:
        return
    args.dout, args.x, args.gamma, args.mean, args.var = &dout[0, 0], &x[0, 0], &gamma[0], &mean[0], &var[0]
    args.dgamma, args.dbeta, args.eps, args.dx = &dgamma[0], &dbeta[0], eps, &dx[0, 0]
    args.n, args.c = x.shape[0], x.shape[1]
    submit(
        FNN_OP_batchnorm_backward, &args, sizeof(args), <double>PASS * args.n * args.c,
        (dout.base, x.base, gamma.base, mean.base, var.base, dgamma.base, dbeta.base), (dx.base,),
    )


def batchnorm_update(
    const float[::1] mean not None, const float[::1] var not None, int64_t rows, double momentum,
    float[::1] running_mean not None, float[::1] running_var not None,
):
    """running += momentum * (batch - running), var * rows / (rows - 1) being the batch's; all (C,)."""
    cdef fnn_batchnorm_update_args args
    fixed("batchnorm_update", "var", var.shape[0], mean.shape[0])
    fixed("batchnorm_update", "running_mean", running_mean.shape[0], mean.shape[0])
    fixed("batchnorm_update", "running_var", running_var.shape[0], mean.shape[0])
    if rows < 1:
        raise ValueError(f"batchnorm_update: rows must be at least 1, got {rows}")
    if not 0 <= momentum <= 1:
        raise ValueError(f"batchnorm_update: momentum must be in [0, 1], got {momentum}")
    args.mean, args.var, args.rows, args.momentum = &mean[0], &var[0], rows, momentum
    args.running_mean, args.running_var, args.c = &running_mean[0], &running_var[0], mean.shape[0]
    submit(
        FNN_OP_batchnorm_update, &args, sizeof(args), 6.0 * args.c,
        (mean.base, var.base), (running_mean.base, running_var.base),
    )

"""Activations, dropout and softmax: checks in front of csrc/elementwise.c."""

from fastnn.kernels.checks cimport fixed, same, same_2d
from fastnn.kernels.csrc cimport *
from fastnn.kernels.plan cimport submit

# rough operations an element, a division counting ten: they decide from where on threads pay
cdef enum:
    CHEAP = 4
    CURVE = 40
    PHILOX = 40


cdef map_forward(str kernel, fnn_op op, double cost, const float[::1] x, float[::1] out):
    cdef fnn_map_args args
    same(kernel, "out", out.shape[0], "x", x.shape[0])
    args.x, args.out, args.n = &x[0], &out[0], x.shape[0]
    submit(op, &args, sizeof(args), cost * args.n, (x.base,), (out.base,))


cdef map_backward(str kernel, fnn_op op, const float[::1] dout, const float[::1] out, float[::1] dx):
    cdef fnn_map_backward_args args
    same(kernel, "out", out.shape[0], "dout", dout.shape[0])
    same(kernel, "dx", dx.shape[0], "dout", dout.shape[0])
    args.dout, args.out, args.dx, args.n = &dout[0], &out[0], &dx[0], dout.shape[0]
    submit(op, &args, sizeof(args), <double>CHEAP * args.n, (dout.base, out.base), (dx.base,))


def add(const float[::1] x not None, const float[::1] y not None, float[::1] out not None):
    """out = x + y, all (n,)."""
    cdef fnn_add_args args
    same("add", "y", y.shape[0], "x", x.shape[0])
    same("add", "out", out.shape[0], "x", x.shape[0])
    args.x, args.y, args.out, args.n = &x[0], &y[0], &out[0], x.shape[0]
    submit(FNN_OP_add, &args, sizeof(args), <double>CHEAP * args.n, (x.base, y.base), (out.base,))


def relu_forward(const float[::1] x not None, float[::1] out not None):
    """out = maximum(x, 0), for x and out (n,)."""
    map_forward("relu_forward", FNN_OP_relu_forward, CHEAP, x, out)


def relu_backward(const float[::1] dout not None, const float[::1] out not None, float[::1] dx not None):
    """dx = dout where out > 0, else 0; all (n,)."""
    map_backward("relu_backward", FNN_OP_relu_backward, dout, out, dx)


cdef check_slope(str kernel, float slope):
    if not 0 <= slope < float("inf"):
        raise ValueError(f"{kernel}: slope must be finite and not negative, got {slope}")


def leaky_relu_forward(const float[::1] x not None, float slope, float[::1] out not None):
    """out = x where x > 0, else slope * x; x and out (n,), slope >= 0."""
    cdef fnn_leaky_relu_forward_args args
    same("leaky_relu_forward", "out", out.shape[0], "x", x.shape[0])
    check_slope("leaky_relu_forward", slope)
    args.x, args.slope, args.out, args.n = &x[0], slope, &out[0], x.shape[0]
    submit(
        FNN_OP_leaky_relu_forward, &args, sizeof(args), <double>CHEAP * args.n, (x.base,), (out.base,)
    )


def leaky_relu_backward(
    const float[::1] dout not None, const float[::1] out not None, float slope, float[::1] dx not None
):
    """dx = dout where out > 0, else slope * dout; all (n,), slope >= 0."""
    cdef fnn_leaky_relu_backward_args args
    same("leaky_relu_backward", "out", out.shape[0], "dout", dout.shape[0])
    same("leaky_relu_backward", "dx", dx.shape[0], "dout", dout.shape[0])
    check_slope("leaky_relu_backward", slope)
    args.dout, args.out, args.slope, args.dx = &dout[0], &out[0], slope, &dx[0]
    args.n = dout.shape[0]
    submit(
        FNN_OP_leaky_relu_backward, &args, sizeof(args), <double>CHEAP * args.n,
        (dout.base, out.base), (dx.base,),
    )


def sigmoid_forward(const float[::1] x not None, float[::1] out not None):
    """out = 1 / (1 + exp(-x)), for x and out (n,)."""
    map_forward("sigmoid_forward", FNN_OP_sigmoid_forward, CURVE, x, out)


def sigmoid_backward(const float[::1] dout not None, const float[::1] out not None, float[::1] dx not None):
    """dx = dout * out * (1 - out); all (n,)."""
    map_backward("sigmoid_backward", FNN_OP_sigmoid_backward, dout, out, dx)


def tanh_forward(const float[::1] x not None, float[::1] out not None):
    """out = tanh(x), for x and out (n,)."""
    map_forward("tanh_forward", FNN_OP_tanh_forward, CURVE, x, out)


def tanh_backward(const float[::1] dout not None, const float[::1] out not None, float[::1] dx not None):
    """dx = dout * (1 - out**2); all (n,)."""
    map_backward("tanh_backward", FNN_OP_tanh_backward, dout, out, dx)


def gelu_forward(
    const float[::1] x not None, bint approximate, float slope, float[::1] out not None
):
    """out = x * (slope + (1 - slope) * P(x)), P(x) = (1 + erf(x / sqrt(2))) / 2 or its tanh form; (n,)."""
    cdef fnn_gelu_forward_args args
    same("gelu_forward", "out", out.shape[0], "x", x.shape[0])
    check_slope("gelu_forward", slope)
    args.x, args.approximate, args.slope, args.out = &x[0], approximate, slope, &out[0]
    args.n = x.shape[0]
    submit(FNN_OP_gelu_forward, &args, sizeof(args), <double>CURVE * args.n, (x.base,), (out.base,))


def gelu_backward(
    const float[::1] dout not None, const float[::1] x not None, bint approximate, float slope,
    float[::1] dx not None,
):
    """dx = dout * gelu'(x), or of its tanh form; all (n,)."""
    cdef fnn_gelu_backward_args args
    same("gelu_backward", "x", x.shape[0], "dout", dout.shape[0])
    same("gelu_backward", "dx", dx.shape[0], "dout", dout.shape[0])
    check_slope("gelu_backward", slope)
    args.dout, args.x, args.approximate, args.slope = &dout[0], &x[0], approximate, slope
    args.dx, args.n = &dx[0], dout.shape[0]
    submit(
        FNN_OP_gelu_backward, &args, sizeof(args), <double>CURVE * args.n, (dout.base, x.base), (dx.base,)
    )


cdef check_rate(str kernel, double rate):
    if not 0 <= rate < 1:
        raise ValueError(f"{kernel}: rate must be in [0, 1), got {rate}")


def dropout_forward(
    const float[::1] x not None, double rate, uint64_t seed, uint32_t stream,
    const int64_t[::1] clock not None, unsigned char[::1] mask not None, float[::1] out not None,
):
    """out = x * mask / (1 - rate), mask (n,) uint8 drawn from (seed, stream, clock[1]); x, out (n,)."""
    cdef fnn_dropout_forward_args args
    fixed("dropout_forward", "clock", clock.shape[0], 3)
    same("dropout_forward", "mask", mask.shape[0], "x", x.shape[0])
    same("dropout_forward", "out", out.shape[0], "x", x.shape[0])
    check_rate("dropout_forward", rate)
    args.x, args.rate, args.seed, args.stream = &x[0], rate, seed, stream
    args.clock, args.mask, args.out, args.n = &clock[0], &mask[0], &out[0], x.shape[0]
    submit(
        FNN_OP_dropout_forward, &args, sizeof(args), <double>PHILOX * args.n,
        (x.base, clock.base), (mask.base, out.base),
    )


def dropout_backward(
    const float[::1] dout not None, double rate, const unsigned char[::1] mask not None,
    float[::1] dx not None,
):
    """dx = dout * mask / (1 - rate), mask (n,) uint8; dout and dx (n,)."""
    cdef fnn_dropout_backward_args args
    same("dropout_backward", "mask", mask.shape[0], "dout", dout.shape[0])
    same("dropout_backward", "dx", dx.shape[0], "dout", dout.shape[0])
    check_rate("dropout_backward", rate)
    args.dout, args.rate, args.mask, args.dx = &dout[0], rate, &mask[0], &dx[0]
    args.n = dout.shape[0]
    submit(
        FNN_OP_dropout_backward, &args, sizeof(args), <double>CHEAP * args.n,
        (dout.base, mask.base), (dx.base,),
    )


def softmax_forward(const float[:, ::1] x not None, float[:, ::1] out not None):
    """out = exp(x - max) / sum(exp(x - max)) by rows; x and out (N, C)."""
    cdef fnn_softmax_forward_args args
    same_2d("softmax_forward", "out", out, "x", x)
    args.x, args.out, args.n, args.c = &x[0, 0], &out[0, 0], x.shape[0], x.shape[1]
    submit(
        FNN_OP_softmax_forward, &args, sizeof(args), <double>CURVE * args.n * args.c,
        (x.base,), (out.base,),
    )


def softmax_backward(
    const float[:, ::1] dout not None, const float[:, ::1] out not None, float[:, ::1] dx not None
):
    """dx = out * (dout - sum(dout * out)) by rows; all (N, C)."""
    cdef fnn_softmax_backward_args args
    same_2d("softmax_backward", "out", out, "dout", dout)
    same_2d("softmax_backward", "dx", dx, "dout", dout)
    args.dout, args.out, args.dx = &dout[0, 0], &out[0, 0], &dx[0, 0]
    args.n, args.c = dout.shape[0], dout.shape[1]
    submit(
        FNN_OP_softmax_backward, &args, sizeof(args), 2.0 * CHEAP * args.n * args.c,
        (dout.base, out.base), (dx.base,),
    )

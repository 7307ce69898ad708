"""Convolution and transposed convolution: shape checks in front of csrc/conv2d.c."""

from fastnn.kernels.checks cimport shape_of
from fastnn.kernels.csrc cimport *
from fastnn.kernels.dense cimport sum_rows
from fastnn.kernels.plan cimport submit

from fastnn.windows import check_convolution as _check_convolution


cdef int64_t outputs_inside(int64_t out, int64_t size, int64_t stride, int64_t pad, int64_t taps, int64_t dilation):
    """How often the taps of an axis meet a pixel, all together."""
    cdef int64_t total = 0, t, i, at
    for t in range(taps):
        at = t * dilation - pad
        for i in range(out):
            total += 0 <= i * stride + at < size
    return total


cdef fnn_conv2d convolution(
    str kernel, const float[:, :, :, ::1] x, const float[:, :, :, ::1] w, const float[:, :, :, ::1] out,
    stride, pad, dilation,
) except *:
    """The convolution that takes x (N, H, W, C) to out (N, OH, OW, K)."""
    cdef fnn_conv2d f
    _check_convolution(kernel, shape_of(x), shape_of(w), shape_of(out), stride, pad, dilation)
    f.n, f.h, f.w, f.c = shape_of(x)
    f.oh, f.ow, f.k = out.shape[1], out.shape[2], out.shape[3]
    f.kh, f.kw = w.shape[0], w.shape[1]
    (f.sh, f.sw), (f.dh, f.dw) = stride, dilation
    (f.top, _), (f.left, _) = pad
    return f


cdef double flops(fnn_conv2d *f):
    """Multiplications and additions of pixels; those of zeros around the image are not made."""
    cdef int64_t rows = outputs_inside(f.oh, f.h, f.sh, f.top, f.kh, f.dh)
    cdef int64_t columns = outputs_inside(f.ow, f.w, f.sw, f.left, f.kw, f.dw)
    return 2.0 * f.n * f.c * f.k * rows * columns


cdef check_bias(str kernel, str name, const float[::1] b, int64_t channels):
    if b is not None and b.shape[0] != channels:
        raise ValueError(f"{kernel}: {name} has shape {(b.shape[0],)}, expected ({channels},)")


cdef check_scratch(str kernel, const float[:, ::1] scratch, const float[:, :, :, ::1] w, int64_t outputs):
    cdef int64_t row = w.shape[0] * w.shape[1] * w.shape[2] * w.shape[3] + outputs
    if scratch is not None and (scratch.shape[0] == 0 or scratch.shape[1] != row):
        raise ValueError(f"{kernel}: scratch has shape {(scratch.shape[0], scratch.shape[1])}, expected (Q, {row})")


cdef check_like(str kernel, str name, const float[:, :, :, ::1] a, str other, const float[:, :, :, ::1] b):
    if a is not None and shape_of(a) != shape_of(b):
        raise ValueError(f"{kernel}: {name} {shape_of(a)} must have {other}'s shape {shape_of(b)}")


cdef forward(fnn_conv2d f, const float[:, :, :, ::1] x, const float[:, :, :, ::1] w, const float[::1] b, float[:, :, :, ::1] out):
    cdef fnn_conv2d_forward_args args
    args.shape = f
    args.x, args.w, args.out = &x[0, 0, 0, 0], &w[0, 0, 0, 0], &out[0, 0, 0, 0]
    args.b = NULL if b is None else &b[0]
    args.relu, args.pooled = False, NULL
    submit(
        FNN_OP_conv2d_forward, &args, sizeof(args), flops(&f),
        (x.base, w.base, None if b is None else b.base), (out.base,),
    )


cdef backward_x(fnn_conv2d f, const float[:, :, :, ::1] dout, const float[:, :, :, ::1] w, const float[::1] b, float[:, :, :, ::1] dx):
    cdef fnn_conv2d_backward_x_args args
    args.shape = f
    args.dout, args.w, args.dx = &dout[0, 0, 0, 0], &w[0, 0, 0, 0], &dx[0, 0, 0, 0]
    args.b = NULL if b is None else &b[0]
    args.relu, args.activation, args.slope, args.saved = False, FNN_LINEAR, 0, NULL
    submit(
        FNN_OP_conv2d_backward_x, &args, sizeof(args), flops(&f),
        (dout.base, w.base, None if b is None else b.base), (dx.base,),
    )


cdef backward_w(
    fnn_conv2d f, const float[:, :, :, ::1] dout, const float[:, :, :, ::1] x, bint transposed,
    float[:, ::1] scratch, float[:, :, :, ::1] dw, float[::1] db,
):
    cdef fnn_conv2d_backward_w_args args
    cdef int64_t weights = f.kh * f.kw * f.c * f.k, outputs = f.c if transposed else f.k
    args.shape = f
    args.dout, args.x, args.transposed = &dout[0, 0, 0, 0], &x[0, 0, 0, 0], transposed
    args.dw, args.chunks, args.scratch = &dw[0, 0, 0, 0], 0, NULL
    args.db = NULL if db is None else &db[0]
    reads = (dout.base, x.base)
    if scratch is None:
        submit(
            FNN_OP_conv2d_backward_w, &args, sizeof(args), flops(&f), reads,
            (dw.base, None if db is None else db.base),
        )
        return
    args.chunks, args.scratch = scratch.shape[0], &scratch[0, 0]
    submit(FNN_OP_conv2d_backward_w, &args, sizeof(args), flops(&f), reads, (scratch.base,))
    sum_rows(scratch, 0, dw.base, &dw[0, 0, 0, 0], weights)
    if db is not None:
        sum_rows(scratch, weights, db.base, &db[0], outputs)


def conv2d_forward(
    const float[:, :, :, ::1] x not None, const float[:, :, :, ::1] w not None, const float[::1] b,
    stride, pad, dilation, float[:, :, :, ::1] out not None,
):
    """Convolution of x (N, H, W, C) with w (KH, KW, C, K), b (K,) or None, to out (N, OH, OW, K)."""
    cdef fnn_conv2d f = convolution("conv2d_forward", x, w, out, stride, pad, dilation)
    check_bias("conv2d_forward", "b", b, f.k)
    forward(f, x, w, b, out)


def conv2d_backward(
    const float[:, :, :, ::1] dout not None, const float[:, :, :, ::1] x not None,
    const float[:, :, :, ::1] w not None, stride, pad, dilation, float[:, ::1] scratch,
    float[:, :, :, ::1] dx, float[:, :, :, ::1] dw not None, float[::1] db,
):
    """Gradients of conv2d_forward; dx or db None: not computed.

    Shapes: dout (N, OH, OW, K), x and dx (N, H, W, C), w and dw (KH, KW, C, K), db (K,),
    scratch (Q, KH*KW*C*K + K) or None.
    """
    cdef fnn_conv2d f = convolution("conv2d_backward", x, w, dout, stride, pad, dilation)
    check_bias("conv2d_backward", "db", db, f.k)
    check_like("conv2d_backward", "dx", dx, "x", x)
    check_like("conv2d_backward", "dw", dw, "w", w)
    check_scratch("conv2d_backward", scratch, w, f.k)
    if dx is not None:
        backward_x(f, dout, w, None, dx)
    backward_w(f, dout, x, False, scratch, dw, db)


def conv_transpose2d_forward(
    const float[:, :, :, ::1] x not None, const float[:, :, :, ::1] w not None, const float[::1] b,
    stride, pad, float[:, :, :, ::1] out not None,
):
    """Transposed convolution of x (N, H, W, C) with w (KH, KW, K, C), b (K,) or None, to out (N, OH, OW, K)."""
    cdef fnn_conv2d f = convolution("conv_transpose2d_forward", out, w, x, stride, pad, (1, 1))
    check_bias("conv_transpose2d_forward", "b", b, f.c)
    backward_x(f, x, w, b, out)


def conv_transpose2d_backward(
    const float[:, :, :, ::1] dout not None, const float[:, :, :, ::1] x not None,
    const float[:, :, :, ::1] w not None, stride, pad, float[:, ::1] scratch,
    float[:, :, :, ::1] dx, float[:, :, :, ::1] dw not None, float[::1] db,
):
    """Gradients of conv_transpose2d_forward; dx or db None: not computed.

    Shapes: dout (N, OH, OW, K), x and dx (N, H, W, C), w and dw (KH, KW, K, C), db (K,),
    scratch (Q, KH*KW*K*C + K) or None.
    """
    cdef fnn_conv2d f = convolution("conv_transpose2d_backward", dout, w, x, stride, pad, (1, 1))
    check_bias("conv_transpose2d_backward", "db", db, f.c)
    check_like("conv_transpose2d_backward", "dx", dx, "x", x)
    check_like("conv_transpose2d_backward", "dw", dw, "w", w)
    check_scratch("conv_transpose2d_backward", scratch, w, f.c)
    if dx is not None:
        forward(f, dout, w, None, dx)
    backward_w(f, x, dout, True, scratch, dw, db)

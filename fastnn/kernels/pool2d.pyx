"""Pooling and upsampling of images: shape checks in front of csrc/pool2d.c."""

from fastnn.kernels.checks cimport shape_of
from fastnn.kernels.csrc cimport *
from fastnn.kernels.plan cimport submit

from fastnn.windows import check_pool as _check_pool

# a pixel that is read or written takes the time of so many operations
cdef enum:
    PIXEL = 16


cdef fnn_pool2d windows(
    str kernel, const float[:, :, :, ::1] x, const float[:, :, :, ::1] out, size, stride, pad, bint exact=False
) except *:
    """The windows of x (N, H, W, C) that are the pixels of out (N, OH, OW, C)."""
    cdef fnn_pool2d f
    _check_pool(kernel, shape_of(x), shape_of(out), size, stride, pad, exact)
    f.n, f.h, f.w, f.c = shape_of(x)
    f.oh, f.ow = out.shape[1], out.shape[2]
    (f.kh, f.kw), (f.sh, f.sw) = size, stride
    (f.top, _), (f.left, _) = pad
    return f


cdef double work(fnn_pool2d *f):
    cdef double inputs = <double>f.n * f.h * f.w * f.c, outputs = <double>f.n * f.oh * f.ow * f.c
    return PIXEL * max(inputs, outputs * f.kh * f.kw)


cdef const void *address(str kernel, index, const float[:, :, :, ::1] out, bint wide, bint write) except? NULL:
    """Where the places in windows lie: one byte each, or four."""
    cdef const unsigned char[:, :, :, ::1] narrow
    cdef const int[:, :, :, ::1] large
    if index is None:
        raise TypeError(f"{kernel}: index must not be None")
    if write and memoryview(index).readonly:
        raise ValueError(f"{kernel}: index is read-only")
    if wide:
        large = index
        start = <const void *>&large[0, 0, 0, 0]
    else:
        narrow = index
        start = <const void *>&narrow[0, 0, 0, 0]
    if index.shape != shape_of(out):
        raise ValueError(f"{kernel}: index has shape {index.shape}, expected {shape_of(out)}")
    return start


def maxpool2d_forward(
    const float[:, :, :, ::1] x not None, size, stride, pad, index, float[:, :, :, ::1] out not None
):
    """out = largest of each window of x, index its place r*Q + q, or None.

    Shapes: x (N, H, W, C), out and index (N, OH, OW, C), index uint8 or, for more than 256 places, int32.
    """
    cdef fnn_maxpool2d_forward_args args
    args.shape = windows("maxpool2d_forward", x, out, size, stride, pad)
    args.wide = args.shape.kh * args.shape.kw > 256
    args.index = NULL
    if index is not None:
        args.index = <void *>address("maxpool2d_forward", index, out, args.wide, True)
    args.x, args.out = &x[0, 0, 0, 0], &out[0, 0, 0, 0]
    submit(
        FNN_OP_maxpool2d_forward, &args, sizeof(args), work(&args.shape), (x.base,), (index, out.base)
    )


def maxpool2d_backward(
    const float[:, :, :, ::1] dout not None, size, stride, pad, index, float[:, :, :, ::1] dx not None
):
    """dx = sum of dout over the windows that chose the pixel; dx (N, H, W, C), dout, index (N, OH, OW, C)."""
    cdef fnn_maxpool2d_backward_args args
    args.shape = windows("maxpool2d_backward", dx, dout, size, stride, pad)
    args.wide = args.shape.kh * args.shape.kw > 256
    args.index = address("maxpool2d_backward", index, dout, args.wide, False)
    args.dout, args.mask, args.dx = &dout[0, 0, 0, 0], NULL, &dx[0, 0, 0, 0]
    submit(
        FNN_OP_maxpool2d_backward, &args, sizeof(args), work(&args.shape), (dout.base, index), (dx.base,)
    )


cdef sum_windows(
    fnn_op op, fnn_pool2d shape, const float[:, :, :, ::1] x, float scale, bint by_count, float[:, :, :, ::1] out
):
    cdef fnn_avgpool2d_forward_args args
    args.shape, args.scale, args.by_count = shape, scale, by_count
    args.x, args.out = &x[0, 0, 0, 0], &out[0, 0, 0, 0]
    submit(op, &args, sizeof(args), work(&shape), (x.base,), (out.base,))


cdef share_windows(
    fnn_op op, fnn_pool2d shape, const float[:, :, :, ::1] dout, float scale, bint by_count, float[:, :, :, ::1] dx
):
    cdef fnn_avgpool2d_backward_args args
    args.shape, args.scale, args.by_count = shape, scale, by_count
    args.dout, args.dx = &dout[0, 0, 0, 0], &dx[0, 0, 0, 0]
    submit(op, &args, sizeof(args), work(&shape), (dout.base,), (dx.base,))


cdef tuple mean(size, pad, bint include_pad):
    """The factor on a window's sum, and whether to divide by the number of pixels."""
    by_count = not include_pad and pad != ((0, 0), (0, 0))
    return 1.0 if by_count else 1.0 / (size[0] * size[1]), by_count


def avgpool2d_forward(
    const float[:, :, :, ::1] x not None, size, stride, pad, bint include_pad, float[:, :, :, ::1] out not None
):
    """out = mean of each window of x; x (N, H, W, C), out (N, OH, OW, C)."""
    cdef fnn_pool2d shape = windows("avgpool2d_forward", x, out, size, stride, pad)
    scale, by_count = mean(size, pad, include_pad)
    sum_windows(FNN_OP_avgpool2d_forward, shape, x, scale, by_count, out)


def avgpool2d_backward(
    const float[:, :, :, ::1] dout not None, size, stride, pad, bint include_pad,
    float[:, :, :, ::1] dx not None,
):
    """dx = sum of each window's share of dout; dout (N, OH, OW, C), dx (N, H, W, C)."""
    cdef fnn_pool2d shape = windows("avgpool2d_backward", dx, dout, size, stride, pad)
    scale, by_count = mean(size, pad, include_pad)
    share_windows(FNN_OP_avgpool2d_backward, shape, dout, scale, by_count, dx)


def upsample2d_forward(const float[:, :, :, ::1] x not None, size, float[:, :, :, ::1] out not None):
    """out[n, i, j] = x[n, i // sh, j // sw]; x (N, H, W, C), out (N, H * sh, W * sw, C)."""
    cdef fnn_pool2d shape = windows("upsample2d_forward", out, x, size, size, ((0, 0), (0, 0)), True)
    share_windows(FNN_OP_upsample2d_forward, shape, x, 1, False, out)


def upsample2d_backward(const float[:, :, :, ::1] dout not None, size, float[:, :, :, ::1] dx not None):
    """dx = sum of dout over the copies of a pixel; dout (N, H * sh, W * sw, C), dx (N, H, W, C)."""
    cdef fnn_pool2d shape = windows("upsample2d_backward", dout, dx, size, size, ((0, 0), (0, 0)), True)
    sum_windows(FNN_OP_upsample2d_backward, shape, dout, 1, False, dx)

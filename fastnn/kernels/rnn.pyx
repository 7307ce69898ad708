"""Recurrent layers: shape checks in front of csrc/rnn.c.

The shapes are those of the reference, and so are the functions that check them.
"""

import numpy as np

from fastnn.kernels.csrc cimport *
from fastnn.kernels.plan cimport capturing, submit

from fastnn.reference import rnn as _reference
from fastnn.reference._shapes import check_shapes as _check_shapes

cdef enum:
    CURVE = 40 # rough operations of a tanh or a sigmoid


cdef object array(view):
    """The array behind a view, or None."""
    return None if view is None else view.base


cdef object known(lengths):
    """Lengths that can be checked: those of a plan come with each batch."""
    return None if capturing() else array(lengths)


cdef const int32_t *labels(const int32_t[::1] a):
    return NULL if a is None else &a[0]


cdef float *vector(const float[::1] a):
    return NULL if a is None else <float *>&a[0]


cdef float *matrix(const float[:, ::1] a):
    return NULL if a is None else <float *>&a[0, 0]


cdef float *steps(const float[:, :, ::1] a):
    return NULL if a is None else <float *>&a[0, 0, 0]


cdef run_forward(fnn_recurrent_forward_args *args, int gates, reads, writes):
    work = (2.0 * (args.i + args.h) + CURVE) * args.n * args.t * gates * args.h
    submit(FNN_OP_recurrent_forward, args, sizeof(args[0]), work, tuple(map(array, reads)), tuple(map(array, writes)))


cdef run_backward(
    fnn_recurrent_backward_args *args, int gates, reads, writes, const float[:, :, ::1] x, const float[:, :, ::1] hs,
    const float[:, :, ::1] dz, const float[:, :, ::1] dzh, const float[:, ::1] dwx, const float[:, ::1] dwh,
    const float[::1] db, const float[::1] dbh=None,
):
    """The sweep, then the gradients of the weights, over all steps at once."""
    cdef fnn_recurrent_backward_w_args w
    cdef double columns = args.h + (args.i if args.dx != NULL else 0)
    work = (2.0 * columns + CURVE) * args.n * args.t * gates * args.h
    submit(FNN_OP_recurrent_backward, args, sizeof(args[0]), work, tuple(map(array, reads)), tuple(map(array, writes)))
    w.reverse, w.n, w.t, w.i, w.h, w.width = args.reverse, args.n, args.t, args.i, args.h, gates * args.h
    w.apart = 2 * args.h if args.cell == FNN_GRU else w.width
    w.x, w.h0, w.hs, w.dz, w.dzh = steps(x), args.h0, steps(hs), steps(dz), steps(dzh)
    w.dwx, w.dwh, w.db, w.dbh = matrix(dwx), matrix(dwh), vector(db), vector(dbh)
    w.parts, w.arrived = NULL, NULL
    work = 2.0 * w.t * w.n * (w.i + w.h) * w.width
    reads, writes = (x, hs, dz, dzh), (dwx, dwh, db, dbh)
    submit(FNN_OP_recurrent_backward_w, &w, sizeof(w), work, tuple(map(array, reads)), tuple(map(array, writes)))


def rnn_forward(
    const float[:, :, ::1] x not None, const float[:, ::1] h0, const int32_t[::1] lengths,
    const float[:, ::1] wx not None, const float[:, ::1] wh not None, const float[::1] b, bint relu,
    bint reverse, int64_t column, float[:, :, ::1] hs not None, float[:, :, ::1] out not None,
):
    """h' = tanh(x[t] @ wx + b + h @ wh), or max(., 0) with relu; all steps.

    Shapes: x (N, T, I), h0 (N, H) or None, lengths (N,) or None, wx (I, H), wh (H, H), b (H,) or None,
    hs (N, T + 1, H), out (N, T or 1, D).
    """
    cdef fnn_recurrent_forward_args args
    _check_shapes(
        "rnn_forward",
        x=(x.base, "NTI"), h0=(array(h0), "NH"), lengths=(array(lengths), "N"), wx=(wx.base, "IH"),
        wh=(wh.base, "HH"), b=(array(b), "H"), hs=(hs.base, "NSH"), out=(out.base, "NRD"),
    )
    _reference.check_sequences("rnn_forward", x.base, hs.base, out.base, known(lengths), column)
    args.cell, args.reverse, args.sequences = FNN_RNN_RELU if relu else FNN_RNN_TANH, reverse, out.shape[1] > 1
    args.n, args.t, args.i, args.h = x.shape[0], x.shape[1], x.shape[2], wh.shape[0]
    args.d, args.column = out.shape[2], column
    args.lengths, args.x, args.h0 = labels(lengths), steps(x), matrix(h0)
    args.c0, args.wx, args.wh = NULL, matrix(wx), matrix(wh)
    args.b, args.bh = vector(b), NULL
    args.gates, args.hs, args.cs = NULL, steps(hs), NULL
    args.extra, args.out = NULL, steps(out)
    run_forward(&args, 1, (x, h0, lengths, wx, wh, b), (hs, out))


def rnn_backward(
    const float[:, :, ::1] dout not None, const float[:, :, ::1] x not None, const float[:, ::1] h0,
    const float[:, :, ::1] hs not None, const int32_t[::1] lengths, const float[:, ::1] wx not None,
    const float[:, ::1] wh not None, bint relu, bint reverse, int64_t column, int64_t bptt_steps,
    float[:, :, ::1] dz not None, float[:, ::1] dh not None, float[:, :, ::1] dx, float[:, ::1] dwx not None,
    float[:, ::1] dwh not None, float[::1] db,
):
    """dz = dh * (1 - h'^2), or dh where h' > 0; dh = dz @ wh.T; the weights' gradients over all steps.

    Shapes: as rnn_forward's, dout as out, dz (N, T, H), dh (N, H), dx as x or None, dwx, dwh and db as the
    weights.
    """
    cdef fnn_recurrent_backward_args args
    _check_shapes(
        "rnn_backward",
        dout=(dout.base, "NRD"), x=(x.base, "NTI"), h0=(array(h0), "NH"), hs=(hs.base, "NSH"),
        lengths=(array(lengths), "N"), wx=(wx.base, "IH"), wh=(wh.base, "HH"), dz=(dz.base, "NTH"),
        dh=(dh.base, "NH"), dx=(array(dx), "NTI"), dwx=(dwx.base, "IH"), dwh=(dwh.base, "HH"), db=(array(db), "H"),
    )
    _reference.check_sequences("rnn_backward", x.base, hs.base, dout.base, known(lengths), column)
    _reference.check_bptt("rnn_backward", bptt_steps)
    args.cell, args.reverse, args.sequences = FNN_RNN_RELU if relu else FNN_RNN_TANH, reverse, dout.shape[1] > 1
    args.n, args.t, args.i, args.h = x.shape[0], x.shape[1], x.shape[2], wh.shape[0]
    args.d, args.column, args.bptt_steps = dout.shape[2], column, bptt_steps
    args.lengths, args.dout, args.h0, args.wx = labels(lengths), steps(dout), matrix(h0), matrix(wx)
    args.wh, args.gates, args.hs = matrix(wh), NULL, steps(hs)
    args.cs, args.extra, args.dz = NULL, NULL, steps(dz)
    args.dzh, args.dh, args.dc = NULL, matrix(dh), NULL
    args.dx = steps(dx)
    run_backward(
        &args, 1, (dout, h0, hs, lengths, wx, wh), (dz, dh, dx), x, hs, dz, dz, dwx, dwh, db
    )


def lstm_forward(
    const float[:, :, ::1] x not None, const float[:, ::1] h0, const float[:, ::1] c0,
    const int32_t[::1] lengths, const float[:, ::1] wx not None, const float[:, ::1] wh not None,
    const float[::1] b, bint reverse, int64_t column, float[:, :, ::1] gates not None,
    float[:, :, ::1] hs not None, float[:, :, ::1] cs not None, float[:, :, ::1] tanh_c not None,
    float[:, :, ::1] out not None,
):
    """i, f, g, o = sigmoid, sigmoid, tanh, sigmoid of x[t] @ wx + b + h @ wh; c' = f*c + i*g; h' = o*tanh(c').

    Shapes: x (N, T, I), h0 and c0 (N, H) or None, lengths (N,) or None, wx (I, 4H), wh (H, 4H), b (4H,) or None,
    gates (N, T, 4H), hs and cs (N, T + 1, H), tanh_c (N, T, H), out (N, T or 1, D).
    """
    cdef fnn_recurrent_forward_args args
    _check_shapes(
        "lstm_forward",
        x=(x.base, "NTI"), h0=(array(h0), "NH"), c0=(array(c0), "NH"), lengths=(array(lengths), "N"),
        wx=(wx.base, "IG"), wh=(wh.base, "HG"), b=(array(b), "G"), gates=(gates.base, "NTG"),
        hs=(hs.base, "NSH"), cs=(cs.base, "NSH"), tanh_c=(tanh_c.base, "NTH"), out=(out.base, "NRD"),
    )
    _reference.check_gates("lstm_forward", wh.base, 4)
    _reference.check_sequences("lstm_forward", x.base, hs.base, out.base, known(lengths), column)
    args.cell, args.reverse, args.sequences = FNN_LSTM, reverse, out.shape[1] > 1
    args.n, args.t, args.i, args.h = x.shape[0], x.shape[1], x.shape[2], wh.shape[0]
    args.d, args.column = out.shape[2], column
    args.lengths, args.x, args.h0 = labels(lengths), steps(x), matrix(h0)
    args.c0, args.wx, args.wh = matrix(c0), matrix(wx), matrix(wh)
    args.b, args.bh = vector(b), NULL
    args.gates, args.hs, args.cs = steps(gates), steps(hs), steps(cs)
    args.extra, args.out = steps(tanh_c), steps(out)
    run_forward(&args, 4, (x, h0, c0, lengths, wx, wh, b), (gates, hs, cs, tanh_c, out))


def lstm_backward(
    const float[:, :, ::1] dout not None, const float[:, :, ::1] x not None, const float[:, ::1] h0,
    const float[:, :, ::1] gates not None, const float[:, :, ::1] hs not None,
    const float[:, :, ::1] cs not None, const float[:, :, ::1] tanh_c not None, const int32_t[::1] lengths,
    const float[:, ::1] wx not None, const float[:, ::1] wh not None, bint reverse, int64_t column,
    int64_t bptt_steps, float[:, :, ::1] dz not None, float[:, ::1] dh not None, float[:, ::1] dc not None,
    float[:, :, ::1] dx, float[:, ::1] dwx not None, float[:, ::1] dwh not None, float[::1] db,
):
    """dc += dh*o*(1 - tanh(c')^2); dz of the gates; dc *= f; dh = dz @ wh.T; the weights' gradients over all steps.

    Shapes: as lstm_forward's, dout as out, dz as gates, dh and dc (N, H), dx as x or None, dwx, dwh and db as
    the weights.
    """
    cdef fnn_recurrent_backward_args args
    _check_shapes(
        "lstm_backward",
        dout=(dout.base, "NRD"), x=(x.base, "NTI"), h0=(array(h0), "NH"), gates=(gates.base, "NTG"),
        hs=(hs.base, "NSH"), cs=(cs.base, "NSH"), tanh_c=(tanh_c.base, "NTH"), lengths=(array(lengths), "N"),
        wx=(wx.base, "IG"), wh=(wh.base, "HG"), dz=(dz.base, "NTG"), dh=(dh.base, "NH"), dc=(dc.base, "NH"),
        dx=(array(dx), "NTI"), dwx=(dwx.base, "IG"), dwh=(dwh.base, "HG"), db=(array(db), "G"),
    )
    _reference.check_gates("lstm_backward", wh.base, 4)
    _reference.check_sequences("lstm_backward", x.base, hs.base, dout.base, known(lengths), column)
    _reference.check_bptt("lstm_backward", bptt_steps)
    args.cell, args.reverse, args.sequences = FNN_LSTM, reverse, dout.shape[1] > 1
    args.n, args.t, args.i, args.h = x.shape[0], x.shape[1], x.shape[2], wh.shape[0]
    args.d, args.column, args.bptt_steps = dout.shape[2], column, bptt_steps
    args.lengths, args.dout, args.h0, args.wx = labels(lengths), steps(dout), matrix(h0), matrix(wx)
    args.wh, args.gates, args.hs = matrix(wh), steps(gates), steps(hs)
    args.cs, args.extra, args.dz = steps(cs), steps(tanh_c), steps(dz)
    args.dzh, args.dh, args.dc = NULL, matrix(dh), matrix(dc)
    args.dx = steps(dx)
    run_backward(
        &args, 4, (dout, h0, gates, hs, cs, tanh_c, lengths, wx, wh), (dz, dh, dc, dx), x, hs, dz, dz, dwx, dwh, db
    )


def gru_forward(
    const float[:, :, ::1] x not None, const float[:, ::1] h0, const int32_t[::1] lengths,
    const float[:, ::1] wx not None, const float[:, ::1] wh not None, const float[::1] b, const float[::1] bh,
    bint reverse, int64_t column, float[:, :, ::1] gates not None,
    float[:, :, ::1] hn not None, float[:, :, ::1] hs not None, float[:, :, ::1] out not None,
):
    """r, u = sigmoid of x[t] @ wx + b + h @ wh; hn = h @ wh_n + bh; n = tanh(z_n + r*hn); h' = (1 - u)*n + u*h.

    Shapes: x (N, T, I), h0 (N, H) or None, lengths (N,) or None, wx (I, 3H), wh (H, 3H), b (3H,) and bh (H,) or
    None, gates (N, T, 3H), hn (N, T, H), hs (N, T + 1, H), out (N, T or 1, D).
    """
    cdef fnn_recurrent_forward_args args
    _check_shapes(
        "gru_forward",
        x=(x.base, "NTI"), h0=(array(h0), "NH"), lengths=(array(lengths), "N"), wx=(wx.base, "IG"),
        wh=(wh.base, "HG"), b=(array(b), "G"), bh=(array(bh), "H"), gates=(gates.base, "NTG"),
        hn=(hn.base, "NTH"), hs=(hs.base, "NSH"), out=(out.base, "NRD"),
    )
    _reference.check_gates("gru_forward", wh.base, 3)
    _reference.check_sequences("gru_forward", x.base, hs.base, out.base, known(lengths), column)
    args.cell, args.reverse, args.sequences = FNN_GRU, reverse, out.shape[1] > 1
    args.n, args.t, args.i, args.h = x.shape[0], x.shape[1], x.shape[2], wh.shape[0]
    args.d, args.column = out.shape[2], column
    args.lengths, args.x, args.h0 = labels(lengths), steps(x), matrix(h0)
    args.c0, args.wx, args.wh = NULL, matrix(wx), matrix(wh)
    args.b, args.bh = vector(b), vector(bh)
    args.gates, args.hs, args.cs = steps(gates), steps(hs), NULL
    args.extra, args.out = steps(hn), steps(out)
    run_forward(&args, 3, (x, h0, lengths, wx, wh, b, bh), (gates, hn, hs, out))


def gru_backward(
    const float[:, :, ::1] dout not None, const float[:, :, ::1] x not None, const float[:, ::1] h0,
    const float[:, :, ::1] gates not None, const float[:, :, ::1] hn not None,
    const float[:, :, ::1] hs not None, const int32_t[::1] lengths, const float[:, ::1] wx not None,
    const float[:, ::1] wh not None, bint reverse, int64_t column, int64_t bptt_steps,
    float[:, :, ::1] dz not None, float[:, :, ::1] dzh not None, float[:, ::1] dh not None,
    float[:, :, ::1] dx, float[:, ::1] dwx not None, float[:, ::1] dwh not None, float[::1] db, float[::1] dbh,
):
    """dz = dr, du, dn; dzh = dr, du, dn*r; dh = dh*u + dzh @ wh.T; the weights' gradients over all steps.

    Shapes: as gru_forward's, dout as out, dz and dzh as gates, dh (N, H), dx as x or None, dwx, dwh, db and dbh
    as the weights.
    """
    cdef fnn_recurrent_backward_args args
    _check_shapes(
        "gru_backward",
        dout=(dout.base, "NRD"), x=(x.base, "NTI"), h0=(array(h0), "NH"), gates=(gates.base, "NTG"),
        hn=(hn.base, "NTH"), hs=(hs.base, "NSH"), lengths=(array(lengths), "N"), wx=(wx.base, "IG"),
        wh=(wh.base, "HG"), dz=(dz.base, "NTG"), dzh=(dzh.base, "NTG"), dh=(dh.base, "NH"), dx=(array(dx), "NTI"),
        dwx=(dwx.base, "IG"), dwh=(dwh.base, "HG"), db=(array(db), "G"), dbh=(array(dbh), "H"),
    )
    _reference.check_gates("gru_backward", wh.base, 3)
    _reference.check_sequences("gru_backward", x.base, hs.base, dout.base, known(lengths), column)
    _reference.check_bptt("gru_backward", bptt_steps)
    args.cell, args.reverse, args.sequences = FNN_GRU, reverse, dout.shape[1] > 1
    args.n, args.t, args.i, args.h = x.shape[0], x.shape[1], x.shape[2], wh.shape[0]
    args.d, args.column, args.bptt_steps = dout.shape[2], column, bptt_steps
    args.lengths, args.dout, args.h0, args.wx = labels(lengths), steps(dout), matrix(h0), matrix(wx)
    args.wh, args.gates, args.hs = matrix(wh), steps(gates), steps(hs)
    args.cs, args.extra, args.dz = NULL, steps(hn), steps(dz)
    args.dzh, args.dh, args.dc = steps(dzh), matrix(dh), NULL
    args.dx = steps(dx)
    run_backward(
        &args, 3, (dout, h0, gates, hn, hs, lengths, wx, wh), (dz, dzh, dh, dx), x, hs, dz, dzh, dwx, dwh, db, dbh
    )

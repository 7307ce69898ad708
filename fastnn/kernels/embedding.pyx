"""Embeddings: checks in front of csrc/embedding.c.

Tokens are checked where a call runs now; of a recorded one the model answers for them.
"""

from fastnn.kernels.csrc cimport *
from fastnn.kernels.plan cimport capturing, submit

from fastnn.reference import embedding as _reference
from fastnn.reference._shapes import check_shapes as _check_shapes

cdef enum:
    CHEAP = 4 # rough operations an element


def embedding_forward(
    const int32_t[::1] x not None, const float[:, ::1] w not None, float[:, ::1] out not None
):
    """out[r] = w[x[r]], for x (R,) int32 in [0, V), w (V, U), out (R, U)."""
    cdef fnn_embedding_forward_args args
    _check_shapes("embedding_forward", x=(x.base, "R"), w=(w.base, "VU"), out=(out.base, "RU"))
    if not capturing():
        _reference.check_tokens("embedding_forward", x.base, w.shape[0])
    args.x, args.w, args.out, args.r, args.u = &x[0], &w[0, 0], &out[0, 0], out.shape[0], out.shape[1]
    submit(
        FNN_OP_embedding_forward, &args, sizeof(args), <double>CHEAP * args.r * args.u,
        (w.base, x.base), (out.base,),
    )


def embedding_backward(
    const float[:, ::1] dout not None, const int32_t[::1] x not None, unsigned char[::1] clean,
    float[:, ::1] dw not None,
):
    """dw = 0, dw[x[r]] += dout[r]; rows of dw where clean says that they are 0 are not written to be so.

    Shapes: dout (R, U), x (R,) int32 in [0, V), clean (V,) uint8 or None, updated, dw (V, U).
    """
    cdef fnn_embedding_backward_args args
    flags = None if clean is None else clean.base
    _check_shapes(
        "embedding_backward", dout=(dout.base, "RU"), x=(x.base, "R"), clean=(flags, "V"), dw=(dw.base, "VU")
    )
    if not capturing():
        _reference.check_tokens("embedding_backward", x.base, dw.shape[0])
    args.dout, args.x, args.dw = &dout[0, 0], &x[0], &dw[0, 0]
    args.clean = NULL if clean is None else &clean[0]
    args.r, args.v, args.u = dout.shape[0], dw.shape[0], dw.shape[1]
    submit(
        FNN_OP_embedding_backward, &args, sizeof(args), <double>CHEAP * args.r * args.u + args.v,
        (dout.base, x.base), (flags, dw.base),
    )

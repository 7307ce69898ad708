"""Owns recurrent layers, forward and back through time, as NumPy formulas step by step.

Leaves all memory to the caller; the states that backward needs are arguments. Steps are in the
order of computation: step s is at time s, or T - 1 - s where ``reverse``.
"""

from collections.abc import Iterator

import numpy as np

from fastnn.reference._shapes import Array, check_shapes

__all__ = [
    "gru_backward",
    "gru_forward",
    "lstm_backward",
    "lstm_forward",
    "rnn_backward",
    "rnn_forward",
]


def sigmoid(x: Array) -> Array:
    """Return ``1 / (1 + exp(-x))`` without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def check_sequences(
    kernel: str, x: Array, hs: Array, out: Array, lengths: Array | None, column: int
) -> None:
    """Check that ``hs`` has T + 1 states, and ``out`` T outputs or one, as wide as needed."""
    steps, units = x.shape[1], hs.shape[2]
    if len(hs) != steps + 1:
        raise ValueError(f"{kernel}: hs of shape {hs.shape} does not fit {steps} steps and 1 more")
    if out.shape[1] not in (1, steps) or not 0 <= column <= out.shape[2] - units:
        raise ValueError(
            f"{kernel}: {out.shape} has no place for {units} columns from {column} of {steps} steps"
        )
    if lengths is not None and ((lengths < 1) | (lengths > steps)).any():
        raise ValueError(f"{kernel}: lengths {lengths} are not all in [1, {steps}]")


def running(steps: int, reverse: bool, lengths: Array | None) -> Iterator[tuple[int, int, Array]]:
    """Yield each step, its time, and which sequences are still running, (N, 1) or (1, 1) bool."""
    for s in range(steps):
        t = steps - 1 - s if reverse else s
        yield s, t, np.ones((1, 1), bool) if lengths is None else (t < lengths)[:, None]


def write(out: Array, h: Array, t: int, on: Array, column: int, last: bool) -> None:
    """Write a step's state to its place, if it has one; zeros where a sequence has ended."""
    columns = slice(column, column + h.shape[1])
    if out.shape[1] > 1:
        out[:, t, columns] = np.where(on, h, 0)
    elif last:
        out[:, 0, columns] = h


def upstream(dout: Array, units: int, t: int, on: Array, column: int, last: bool) -> Array | float:
    """Return what ``write`` takes from the gradient of ``out`` to that of the state."""
    columns = slice(column, column + units)
    if dout.shape[1] > 1:
        return np.where(on, dout[:, t, columns], 0)
    return dout[:, 0, columns] if last else 0.0


def rnn_forward(
    x: Array,
    h0: Array | None,
    lengths: Array | None,
    wx: Array,
    wh: Array,
    b: Array | None,
    relu: bool,
    reverse: bool,
    column: int,
    xs: Array,
    hs: Array,
    out: Array,
) -> None:
    """Simple recurrence (Elman 1990): ``h[s+1] = tanh(x[t] @ wx + b + h[s] @ wh)``.

    Parameters
    ----------
    x : (N, T, I) float
    h0 : (N, H) float or None
        First state; None means zeros.
    lengths : (N,) int32 or None
        Of each sequence, in [1, T]; one that has ended keeps its state, and its outputs are zero.
    wx : (I, H) float
    wh : (H, H) float
    b : (H,) float or None
    relu : bool
        ``maximum(., 0)`` instead of tanh.
    reverse : bool
        From the last time to the first.
    column : int
        Where the states go in each row of ``out``.
    xs : (T, N, I) float, overwritten
        ``x`` in the order of the steps.
    hs : (T + 1, N, H) float, overwritten
        All states, the first one included.
    out : (N, T, D) or (N, 1, D) float, columns overwritten
        The states at all times, or the last one.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> x, one = np.ones((1, 2, 1)), np.ones((1, 1))
    >>> xs, hs, out = np.empty((2, 1, 1)), np.empty((3, 1, 1)), np.empty((1, 2, 1))
    >>> rnn_forward(x, None, None, one, one, None, True, False, 0, xs, hs, out)
    >>> out.ravel()
    array([1., 2.])
    """
    check_shapes(
        "rnn_forward",
        x=(x, "NTI"),
        h0=(h0, "NH"),
        lengths=(lengths, "N"),
        wx=(wx, "IH"),
        wh=(wh, "HH"),
        b=(b, "H"),
        xs=(xs, "TNI"),
        hs=(hs, "SNH"),
        out=(out, "NRD"),
    )
    check_sequences("rnn_forward", x, hs, out, lengths, column)
    steps = x.shape[1]
    hs[0] = 0 if h0 is None else h0
    for s, t, on in running(steps, reverse, lengths):
        xs[s] = x[:, t]
        z = xs[s] @ wx + (0 if b is None else b) + hs[s] @ wh
        hs[s + 1] = np.where(on, np.maximum(z, 0) if relu else np.tanh(z), hs[s])
        write(out, hs[s + 1], t, on, column, s == steps - 1)


def rnn_backward(
    dout: Array,
    xs: Array,
    hs: Array,
    lengths: Array | None,
    wx: Array,
    wh: Array,
    relu: bool,
    reverse: bool,
    column: int,
    bptt_steps: int,
    dz: Array,
    dh: Array,
    dx: Array | None,
    dwx: Array,
    dwh: Array,
    db: Array | None,
) -> None:
    """Back through time over ``z = x[t] @ wx + b + h[s] @ wh``, ``h[s+1] = tanh(z)``.

    ``dz = dh * (1 - h[s+1]**2)``, then ``dh = dz @ wh.T``.

    Parameters
    ----------
    dout : (N, T, D) or (N, 1, D) float
    xs, hs, lengths, wx, wh, relu, reverse, column
        As ``rnn_forward`` took or left them.
    bptt_steps : int
        The gradient ends at steps that are a multiple of it, the state does not (truncated BPTT,
        Williams & Peng 1990); 0 means nowhere.
    dz : (T, N, H) float, overwritten
        Gradients of all steps before the activation.
    dh : (N, H) float, overwritten
        Gradient of the first state.
    dx : (N, T, I) float or None, overwritten
    dwx : (I, H) float, overwritten
    dwh : (H, H) float, overwritten
    db : (H,) float or None, overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    check_shapes(
        "rnn_backward",
        dout=(dout, "NRD"),
        xs=(xs, "TNI"),
        hs=(hs, "SNH"),
        lengths=(lengths, "N"),
        wx=(wx, "IH"),
        wh=(wh, "HH"),
        dz=(dz, "TNH"),
        dh=(dh, "NH"),
        dx=(dx, "NTI"),
        dwx=(dwx, "IH"),
        dwh=(dwh, "HH"),
        db=(db, "H"),
    )
    check_sequences("rnn_backward", xs.swapaxes(0, 1), hs, dout, lengths, column)
    check_bptt("rnn_backward", bptt_steps)
    steps, units = len(xs), wh.shape[0]
    dh[...] = 0
    for s, t, on in reversed(list(running(steps, reverse, lengths))):
        dh += upstream(dout, units, t, on, column, s == steps - 1)
        h = hs[s + 1]
        dz[s] = np.where(on, dh * (h > 0 if relu else 1 - h * h), 0)
        dh[...] = np.where(on, dz[s] @ wh.T, dh)
        truncate(dh, s, on, bptt_steps)
        if dx is not None:
            dx[:, t] = dz[s] @ wx.T
    dwx[...] = np.tensordot(xs, dz, axes=((0, 1), (0, 1)))
    dwh[...] = np.tensordot(hs[:-1], dz, axes=((0, 1), (0, 1)))
    if db is not None:
        db[...] = dz.sum(axis=(0, 1))


def check_bptt(kernel: str, bptt_steps: int) -> None:
    """Check that the number of steps is 0 or more."""
    if bptt_steps < 0:
        raise ValueError(f"{kernel}: bptt_steps is {bptt_steps}, expected 0 or more")


def truncate(gradient: Array, s: int, on: Array, bptt_steps: int) -> None:
    """End the gradient of the state before step s where a window begins there."""
    if bptt_steps and s and s % bptt_steps == 0:
        gradient[...] = np.where(on, 0, gradient)


def lstm_forward(
    x: Array,
    h0: Array | None,
    c0: Array | None,
    lengths: Array | None,
    wx: Array,
    wh: Array,
    b: Array | None,
    reverse: bool,
    column: int,
    xs: Array,
    gates: Array,
    hs: Array,
    cs: Array,
    tanh_c: Array,
    out: Array,
) -> None:
    """Long short-term memory (Hochreiter & Schmidhuber 1997, with forget gates, Gers et al. 2000).

    ``i, f, g, o = split(x[t] @ wx + b + h[s] @ wh)`` (PyTorch's order), then
    ``c[s+1] = sigmoid(f) * c[s] + sigmoid(i) * tanh(g)``, ``h[s+1] = sigmoid(o) * tanh(c[s+1])``.

    Parameters
    ----------
    x : (N, T, I) float
    h0, c0 : (N, H) float or None
        First states; None means zeros.
    lengths : (N,) int32 or None
    wx : (I, 4*H) float
    wh : (H, 4*H) float
    b : (4*H,) float or None
    reverse, column
        As in ``rnn_forward``.
    xs : (T, N, I) float, overwritten
    gates : (T, N, 4*H) float, overwritten
        After their activations.
    hs, cs : (T + 1, N, H) float, overwritten
    tanh_c : (T, N, H) float, overwritten
    out : (N, T, D) or (N, 1, D) float, columns overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    check_shapes(
        "lstm_forward",
        x=(x, "NTI"),
        h0=(h0, "NH"),
        c0=(c0, "NH"),
        lengths=(lengths, "N"),
        wx=(wx, "IG"),
        wh=(wh, "HG"),
        b=(b, "G"),
        xs=(xs, "TNI"),
        gates=(gates, "TNG"),
        hs=(hs, "SNH"),
        cs=(cs, "SNH"),
        tanh_c=(tanh_c, "TNH"),
        out=(out, "NRD"),
    )
    check_gates("lstm_forward", wh, 4)
    check_sequences("lstm_forward", x, hs, out, lengths, column)
    steps = x.shape[1]
    hs[0] = 0 if h0 is None else h0
    cs[0] = 0 if c0 is None else c0
    for s, t, on in running(steps, reverse, lengths):
        xs[s] = x[:, t]
        i, f, g, o = np.split(xs[s] @ wx + (0 if b is None else b) + hs[s] @ wh, 4, axis=1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        c = f * cs[s] + i * g
        gates[s] = np.concatenate([i, f, g, o], axis=1)
        tanh_c[s] = np.tanh(c)
        cs[s + 1] = np.where(on, c, cs[s])
        hs[s + 1] = np.where(on, o * tanh_c[s], hs[s])
        write(out, hs[s + 1], t, on, column, s == steps - 1)


def check_gates(kernel: str, wh: Array, gates: int) -> None:
    """Check that the recurrent weights (H, G*H) are those of this many gates."""
    if wh.shape[1] != gates * wh.shape[0]:
        raise ValueError(f"{kernel}: wh has shape {wh.shape}, expected (H, {gates} * H)")


def lstm_backward(
    dout: Array,
    xs: Array,
    gates: Array,
    hs: Array,
    cs: Array,
    tanh_c: Array,
    lengths: Array | None,
    wx: Array,
    wh: Array,
    reverse: bool,
    column: int,
    bptt_steps: int,
    dz: Array,
    dh: Array,
    dc: Array,
    dx: Array | None,
    dwx: Array,
    dwh: Array,
    db: Array | None,
) -> None:
    """Back through time over ``c[s+1] = f * c[s] + i * g``, ``h[s+1] = o * tanh(c[s+1])``.

    Parameters
    ----------
    dout : (N, T, D) or (N, 1, D) float
    xs, gates, hs, cs, tanh_c, lengths, wx, wh, reverse, column
        As ``lstm_forward`` took or left them.
    bptt_steps : int
        As in ``rnn_backward``.
    dz : (T, N, 4*H) float, overwritten
        Gradients of all steps before the activations.
    dh, dc : (N, H) float, overwritten
        Gradients of the first states.
    dx : (N, T, I) float or None, overwritten
    dwx : (I, 4*H) float, overwritten
    dwh : (H, 4*H) float, overwritten
    db : (4*H,) float or None, overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    check_shapes(
        "lstm_backward",
        dout=(dout, "NRD"),
        xs=(xs, "TNI"),
        gates=(gates, "TNG"),
        hs=(hs, "SNH"),
        cs=(cs, "SNH"),
        tanh_c=(tanh_c, "TNH"),
        lengths=(lengths, "N"),
        wx=(wx, "IG"),
        wh=(wh, "HG"),
        dz=(dz, "TNG"),
        dh=(dh, "NH"),
        dc=(dc, "NH"),
        dx=(dx, "NTI"),
        dwx=(dwx, "IG"),
        dwh=(dwh, "HG"),
        db=(db, "G"),
    )
    check_gates("lstm_backward", wh, 4)
    check_sequences("lstm_backward", xs.swapaxes(0, 1), hs, dout, lengths, column)
    check_bptt("lstm_backward", bptt_steps)
    steps, units = len(xs), wh.shape[0]
    dh[...] = dc[...] = 0
    for s, t, on in reversed(list(running(steps, reverse, lengths))):
        dh += upstream(dout, units, t, on, column, s == steps - 1)
        i, f, g, o = np.split(gates[s], 4, axis=1)
        e = dc + dh * o * (1 - tanh_c[s] ** 2)
        di, df, dg, do = e * g, e * cs[s], e * i, dh * tanh_c[s]
        z = [di * i * (1 - i), df * f * (1 - f), dg * (1 - g * g), do * o * (1 - o)]
        dz[s] = np.where(on, np.concatenate(z, axis=1), 0)
        dc[...] = np.where(on, e * f, dc)
        dh[...] = np.where(on, dz[s] @ wh.T, dh)
        truncate(dh, s, on, bptt_steps)
        truncate(dc, s, on, bptt_steps)
        if dx is not None:
            dx[:, t] = dz[s] @ wx.T
    dwx[...] = np.tensordot(xs, dz, axes=((0, 1), (0, 1)))
    dwh[...] = np.tensordot(hs[:-1], dz, axes=((0, 1), (0, 1)))
    if db is not None:
        db[...] = dz.sum(axis=(0, 1))


def gru_forward(
    x: Array,
    h0: Array | None,
    lengths: Array | None,
    wx: Array,
    wh: Array,
    b: Array | None,
    bh: Array | None,
    reverse: bool,
    column: int,
    xs: Array,
    gates: Array,
    hn: Array,
    hs: Array,
    out: Array,
) -> None:
    """Gated recurrent unit (Cho et al. 2014) in PyTorch's form.

    ``r, u = sigmoid(x[t] @ wx_ru + b_ru + h[s] @ wh_ru)``, ``hn = h[s] @ wh_n + bh``,
    ``n = tanh(x[t] @ wx_n + b_n + r * hn)``, ``h[s+1] = (1 - u) * n + u * h[s]``.

    Parameters
    ----------
    x : (N, T, I) float
    h0 : (N, H) float or None
    lengths : (N,) int32 or None
    wx : (I, 3*H) float
        Of r, u (PyTorch's z) and n.
    wh : (H, 3*H) float
    b : (3*H,) float or None
        For r and u the sum of PyTorch's two biases, for n that of the input.
    bh : (H,) float or None
        For n, that of the state.
    reverse, column
        As in ``rnn_forward``.
    xs : (T, N, I) float, overwritten
    gates : (T, N, 3*H) float, overwritten
        After their activations.
    hn : (T, N, H) float, overwritten
    hs : (T + 1, N, H) float, overwritten
    out : (N, T, D) or (N, 1, D) float, columns overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    check_shapes(
        "gru_forward",
        x=(x, "NTI"),
        h0=(h0, "NH"),
        lengths=(lengths, "N"),
        wx=(wx, "IG"),
        wh=(wh, "HG"),
        b=(b, "G"),
        bh=(bh, "H"),
        xs=(xs, "TNI"),
        gates=(gates, "TNG"),
        hn=(hn, "TNH"),
        hs=(hs, "SNH"),
        out=(out, "NRD"),
    )
    check_gates("gru_forward", wh, 3)
    check_sequences("gru_forward", x, hs, out, lengths, column)
    steps, units = x.shape[1], wh.shape[0]
    hs[0] = 0 if h0 is None else h0
    for s, t, on in running(steps, reverse, lengths):
        xs[s] = x[:, t]
        r, u, n = np.split(xs[s] @ wx + (0 if b is None else b), 3, axis=1)
        hr, hu = np.split(hs[s] @ wh[:, : 2 * units], 2, axis=1)
        hn[s] = hs[s] @ wh[:, 2 * units :] + (0 if bh is None else bh)
        r, u = sigmoid(r + hr), sigmoid(u + hu)
        n = np.tanh(n + r * hn[s])
        gates[s] = np.concatenate([r, u, n], axis=1)
        hs[s + 1] = np.where(on, (1 - u) * n + u * hs[s], hs[s])
        write(out, hs[s + 1], t, on, column, s == steps - 1)


def gru_backward(
    dout: Array,
    xs: Array,
    gates: Array,
    hn: Array,
    hs: Array,
    lengths: Array | None,
    wx: Array,
    wh: Array,
    reverse: bool,
    column: int,
    bptt_steps: int,
    dz: Array,
    dzh: Array,
    dh: Array,
    dx: Array | None,
    dwx: Array,
    dwh: Array,
    db: Array | None,
    dbh: Array | None,
) -> None:
    """Back through time over ``n = tanh(z_n + r * hn)``, ``h[s+1] = (1 - u) * n + u * h[s]``.

    Parameters
    ----------
    dout : (N, T, D) or (N, 1, D) float
    xs, gates, hn, hs, lengths, wx, wh, reverse, column
        As ``gru_forward`` took or left them.
    bptt_steps : int
        As in ``rnn_backward``.
    dz, dzh : (T, N, 3*H) float, overwritten
        Gradients of all steps before the activations: on the input's side, and on the state's.
    dh : (N, H) float, overwritten
        Gradient of the first state.
    dx : (N, T, I) float or None, overwritten
    dwx : (I, 3*H) float, overwritten
    dwh : (H, 3*H) float, overwritten
    db : (3*H,) float or None, overwritten
    dbh : (H,) float or None, overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    check_shapes(
        "gru_backward",
        dout=(dout, "NRD"),
        xs=(xs, "TNI"),
        gates=(gates, "TNG"),
        hn=(hn, "TNH"),
        hs=(hs, "SNH"),
        lengths=(lengths, "N"),
        wx=(wx, "IG"),
        wh=(wh, "HG"),
        dz=(dz, "TNG"),
        dzh=(dzh, "TNG"),
        dh=(dh, "NH"),
        dx=(dx, "NTI"),
        dwx=(dwx, "IG"),
        dwh=(dwh, "HG"),
        db=(db, "G"),
        dbh=(dbh, "H"),
    )
    check_gates("gru_backward", wh, 3)
    check_sequences("gru_backward", xs.swapaxes(0, 1), hs, dout, lengths, column)
    check_bptt("gru_backward", bptt_steps)
    steps, units = len(xs), wh.shape[0]
    dh[...] = 0
    for s, t, on in reversed(list(running(steps, reverse, lengths))):
        dh += upstream(dout, units, t, on, column, s == steps - 1)
        r, u, n = np.split(gates[s], 3, axis=1)
        dn = dh * (1 - u) * (1 - n * n)
        dr, du = dn * hn[s] * r * (1 - r), dh * (hs[s] - n) * u * (1 - u)
        dz[s] = np.where(on, np.concatenate([dr, du, dn], axis=1), 0)
        dzh[s] = np.where(on, np.concatenate([dr, du, dn * r], axis=1), 0)
        dh[...] = np.where(on, dh * u + dzh[s] @ wh.T, dh)
        truncate(dh, s, on, bptt_steps)
        if dx is not None:
            dx[:, t] = dz[s] @ wx.T
    dwx[...] = np.tensordot(xs, dz, axes=((0, 1), (0, 1)))
    dwh[...] = np.tensordot(hs[:-1], dzh, axes=((0, 1), (0, 1)))
    if db is not None:
        db[...] = dz.sum(axis=(0, 1))
    if dbh is not None:
        dbh[...] = dzh[:, :, 2 * units :].sum(axis=(0, 1))

"""Owns recurrent layers, forward and back through time, as NumPy formulas step by step.

Leaves all memory to the caller; the states that backward needs are arguments. States lie between
the times: time t takes ``h[t]`` to ``h[t+1]``, or ``h[t+1]`` to ``h[t]`` where ``reverse``.
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
    """Check that ``hs`` has T + 1 states, ``out`` T outputs or one, as wide, and nothing is 0."""
    steps, units = x.shape[1], hs.shape[2]
    if 0 in x.shape or not units:
        raise ValueError(
            f"{kernel}: x of shape {x.shape} and states of {units} units, expected none to be 0"
        )
    if hs.shape[1] != steps + 1:
        raise ValueError(f"{kernel}: hs of shape {hs.shape} does not fit {steps} steps and 1 more")
    if out.shape[1] not in (1, steps) or not 0 <= column <= out.shape[2] - units:
        raise ValueError(
            f"{kernel}: {out.shape} has no place for {units} columns from {column} of {steps} steps"
        )
    if lengths is not None and ((lengths < 1) | (lengths > steps)).any():
        raise ValueError(f"{kernel}: lengths {lengths} are not all in [1, {steps}]")


def running(
    steps: int, reverse: bool, lengths: Array | None
) -> Iterator[tuple[int, int, int, int, Array]]:
    """Yield each step, its time, the places of the states before and after it, and who still runs.

    The last is (N, 1) or (1, 1) bool.
    """
    for s in range(steps):
        t = steps - 1 - s if reverse else s
        on = np.ones((1, 1), bool) if lengths is None else (t < lengths)[:, None]
        yield s, t, t + reverse, t + (not reverse), on


def begin(states: Array, first: Array | None, reverse: bool) -> None:
    """Write the first state to its place."""
    states[:, -1 if reverse else 0] = 0 if first is None else first


def sum_steps(
    x: Array, hs: Array, dz: Array, dzh: Array, reverse: bool, dwx: Array, dwh: Array
) -> None:
    """Write the gradients of the weights, over all times at once."""
    before = hs[:, 1:] if reverse else hs[:, :-1]
    dwx[...] = np.tensordot(x, dz, axes=((0, 1), (0, 1)))
    dwh[...] = np.tensordot(before, dzh, axes=((0, 1), (0, 1)))


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
    hs: Array,
    out: Array,
) -> None:
    """Simple recurrence (Elman 1990): ``h' = tanh(x[t] @ wx + b + h @ wh)``.

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
    hs : (N, T + 1, H) float, overwritten
        All states, the first one included, in the order of the times.
    out : (N, T, D) or (N, 1, D) float, columns overwritten
        The states at all times, or the last one.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> x, one = np.ones((1, 2, 1)), np.ones((1, 1))
    >>> hs, out = np.empty((1, 3, 1)), np.empty((1, 2, 1))
    >>> rnn_forward(x, None, None, one, one, None, True, False, 0, hs, out)
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
        hs=(hs, "NSH"),
        out=(out, "NRD"),
    )
    check_sequences("rnn_forward", x, hs, out, lengths, column)
    steps = x.shape[1]
    begin(hs, h0, reverse)
    for s, t, before, after, on in running(steps, reverse, lengths):
        z = x[:, t] @ wx + (0 if b is None else b) + hs[:, before] @ wh
        hs[:, after] = np.where(on, np.maximum(z, 0) if relu else np.tanh(z), hs[:, before])
        write(out, hs[:, after], t, on, column, s == steps - 1)


def rnn_backward(
    dout: Array,
    x: Array,
    h0: Array | None,
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
    """Back through time over ``z = x[t] @ wx + b + h @ wh``, ``h' = tanh(z)``.

    ``dz = dh * (1 - h'**2)``, then ``dh = dz @ wh.T``.

    Parameters
    ----------
    dout : (N, T, D) or (N, 1, D) float
    x, h0, hs, lengths, wx, wh, relu, reverse, column
        As ``rnn_forward`` took or left them.
    bptt_steps : int
        The gradient ends at steps that are a multiple of it, the state does not (truncated BPTT,
        Williams & Peng 1990); 0 means nowhere. A sequence's steps count from where it begins, which
        is its end where ``reverse``.
    dz : (N, T, H) float, overwritten
        Gradients of all steps before the activation.
    dh : (N, H) float, overwritten
        Gradient of the first state; zeros where there was no ``h0``.
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
        x=(x, "NTI"),
        h0=(h0, "NH"),
        hs=(hs, "NSH"),
        lengths=(lengths, "N"),
        wx=(wx, "IH"),
        wh=(wh, "HH"),
        dz=(dz, "NTH"),
        dh=(dh, "NH"),
        dx=(dx, "NTI"),
        dwx=(dwx, "IH"),
        dwh=(dwh, "HH"),
        db=(db, "H"),
    )
    check_sequences("rnn_backward", x, hs, dout, lengths, column)
    check_bptt("rnn_backward", bptt_steps)
    steps, units = x.shape[1], wh.shape[0]
    dh[...] = 0
    for s, t, _before, after, on in reversed(list(running(steps, reverse, lengths))):
        dh += upstream(dout, units, t, on, column, s == steps - 1)
        h = hs[:, after]
        dz[:, t] = np.where(on, dh * (h > 0 if relu else 1 - h * h), 0)
        dh[...] = np.where(on, dz[:, t] @ wh.T, dh)
        dh[...] = np.where(borders(s, t, on, reverse, lengths, bptt_steps), 0, dh)
        if dx is not None:
            dx[:, t] = dz[:, t] @ wx.T
    if h0 is None:
        dh[...] = 0
    sum_steps(x, hs, dz, dz, reverse, dwx, dwh)
    if db is not None:
        db[...] = dz.sum(axis=(0, 1))


def check_bptt(kernel: str, bptt_steps: int) -> None:
    """Check that the number of steps is 0 or more."""
    if bptt_steps < 0:
        raise ValueError(f"{kernel}: bptt_steps is {bptt_steps}, expected 0 or more")


def borders(
    s: int, t: int, on: Array, reverse: bool, lengths: Array | None, bptt_steps: int
) -> Array:
    """Return for which sequences a window begins with this step, whose gradient goes no further.

    (N, 1) or (1, 1) bool.
    """
    if not bptt_steps:
        return np.zeros((1, 1), bool)
    # A reversed sequence begins at its own end.
    step = np.array([s]) if lengths is None or not reverse else lengths - 1 - t
    begins: Array = on & ((step > 0) & (step % bptt_steps == 0))[:, None]
    return begins


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
    gates: Array,
    hs: Array,
    cs: Array,
    tanh_c: Array,
    out: Array,
) -> None:
    """Long short-term memory (Hochreiter & Schmidhuber 1997, with forget gates, Gers et al. 2000).

    ``i, f, g, o = split(x[t] @ wx + b + h @ wh)`` (PyTorch's order), then
    ``c' = sigmoid(f) * c + sigmoid(i) * tanh(g)``, ``h' = sigmoid(o) * tanh(c')``.

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
    gates : (N, T, 4*H) float, overwritten
        After their activations.
    hs, cs : (N, T + 1, H) float, overwritten
    tanh_c : (N, T, H) float, overwritten
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
        gates=(gates, "NTG"),
        hs=(hs, "NSH"),
        cs=(cs, "NSH"),
        tanh_c=(tanh_c, "NTH"),
        out=(out, "NRD"),
    )
    check_gates("lstm_forward", wh, 4)
    check_sequences("lstm_forward", x, hs, out, lengths, column)
    steps = x.shape[1]
    begin(hs, h0, reverse)
    begin(cs, c0, reverse)
    for s, t, before, after, on in running(steps, reverse, lengths):
        z = x[:, t] @ wx + (0 if b is None else b) + hs[:, before] @ wh
        i, f, g, o = np.split(z, 4, axis=1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        c = f * cs[:, before] + i * g
        gates[:, t] = np.concatenate([i, f, g, o], axis=1)
        tanh_c[:, t] = np.tanh(c)
        cs[:, after] = np.where(on, c, cs[:, before])
        hs[:, after] = np.where(on, o * tanh_c[:, t], hs[:, before])
        write(out, hs[:, after], t, on, column, s == steps - 1)


def check_gates(kernel: str, wh: Array, gates: int) -> None:
    """Check that the recurrent weights (H, G*H) are those of this many gates."""
    if wh.shape[1] != gates * wh.shape[0]:
        raise ValueError(f"{kernel}: wh has shape {wh.shape}, expected (H, {gates} * H)")


def lstm_backward(
    dout: Array,
    x: Array,
    h0: Array | None,
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
    """Back through time over ``c' = f * c + i * g``, ``h' = o * tanh(c')``.

    ``dc += dh * o * (1 - tanh(c')**2)``; ``di, df, dg = dc * g, dc * c, dc * i`` and
    ``do = dh * tanh(c')``, times the derivatives of their gates, are ``dz``; then ``dc *= f``,
    ``dh = dz @ wh.T``.

    Parameters
    ----------
    dout : (N, T, D) or (N, 1, D) float
    x, h0, gates, hs, cs, tanh_c, lengths, wx, wh, reverse, column
        As ``lstm_forward`` took or left them.
    bptt_steps : int
        As in ``rnn_backward``.
    dz : (N, T, 4*H) float, overwritten
        Gradients of all steps before the activations.
    dh, dc : (N, H) float, overwritten
        Gradients of the first states; ``dh`` is zeros where there was no ``h0``.
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
        x=(x, "NTI"),
        h0=(h0, "NH"),
        gates=(gates, "NTG"),
        hs=(hs, "NSH"),
        cs=(cs, "NSH"),
        tanh_c=(tanh_c, "NTH"),
        lengths=(lengths, "N"),
        wx=(wx, "IG"),
        wh=(wh, "HG"),
        dz=(dz, "NTG"),
        dh=(dh, "NH"),
        dc=(dc, "NH"),
        dx=(dx, "NTI"),
        dwx=(dwx, "IG"),
        dwh=(dwh, "HG"),
        db=(db, "G"),
    )
    check_gates("lstm_backward", wh, 4)
    check_sequences("lstm_backward", x, hs, dout, lengths, column)
    check_bptt("lstm_backward", bptt_steps)
    steps, units = x.shape[1], wh.shape[0]
    dh[...] = dc[...] = 0
    for s, t, before, _after, on in reversed(list(running(steps, reverse, lengths))):
        dh += upstream(dout, units, t, on, column, s == steps - 1)
        i, f, g, o = np.split(gates[:, t], 4, axis=1)
        e = dc + dh * o * (1 - tanh_c[:, t] ** 2)
        di, df, dg, do = e * g, e * cs[:, before], e * i, dh * tanh_c[:, t]
        z = [di * i * (1 - i), df * f * (1 - f), dg * (1 - g * g), do * o * (1 - o)]
        dz[:, t] = np.where(on, np.concatenate(z, axis=1), 0)
        dc[...] = np.where(on, e * f, dc)
        dh[...] = np.where(on, dz[:, t] @ wh.T, dh)
        ends = borders(s, t, on, reverse, lengths, bptt_steps)
        dh[...], dc[...] = np.where(ends, 0, dh), np.where(ends, 0, dc)
        if dx is not None:
            dx[:, t] = dz[:, t] @ wx.T
    if h0 is None:
        dh[...] = 0
    sum_steps(x, hs, dz, dz, reverse, dwx, dwh)
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
    gates: Array,
    hn: Array,
    hs: Array,
    out: Array,
) -> None:
    """Gated recurrent unit (Cho et al. 2014) in PyTorch's form.

    ``r, u = sigmoid(x[t] @ wx_ru + b_ru + h @ wh_ru)``, ``hn = h @ wh_n + bh``,
    ``n = tanh(x[t] @ wx_n + b_n + r * hn)``, ``h' = (1 - u) * n + u * h``.

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
    gates : (N, T, 3*H) float, overwritten
        After their activations.
    hn : (N, T, H) float, overwritten
    hs : (N, T + 1, H) float, overwritten
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
        gates=(gates, "NTG"),
        hn=(hn, "NTH"),
        hs=(hs, "NSH"),
        out=(out, "NRD"),
    )
    check_gates("gru_forward", wh, 3)
    check_sequences("gru_forward", x, hs, out, lengths, column)
    steps, units = x.shape[1], wh.shape[0]
    begin(hs, h0, reverse)
    for s, t, before, after, on in running(steps, reverse, lengths):
        h = hs[:, before]
        r, u, n = np.split(x[:, t] @ wx + (0 if b is None else b), 3, axis=1)
        hr, hu = np.split(h @ wh[:, : 2 * units], 2, axis=1)
        hn[:, t] = h @ wh[:, 2 * units :] + (0 if bh is None else bh)
        r, u = sigmoid(r + hr), sigmoid(u + hu)
        n = np.tanh(n + r * hn[:, t])
        gates[:, t] = np.concatenate([r, u, n], axis=1)
        hs[:, after] = np.where(on, (1 - u) * n + u * h, h)
        write(out, hs[:, after], t, on, column, s == steps - 1)


def gru_backward(
    dout: Array,
    x: Array,
    h0: Array | None,
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
    """Back through time over ``n = tanh(z_n + r * hn)``, ``h' = (1 - u) * n + u * h``.

    ``dn = dh * (1 - u) * (1 - n**2)``; ``dr, du = dn * hn, dh * (h - n)``, times the derivatives
    of their gates; ``dz = dr, du, dn``, ``dzh = dr, du, dn * r``, ``dh = dh * u + dzh @ wh.T``.

    Parameters
    ----------
    dout : (N, T, D) or (N, 1, D) float
    x, h0, gates, hn, hs, lengths, wx, wh, reverse, column
        As ``gru_forward`` took or left them.
    bptt_steps : int
        As in ``rnn_backward``.
    dz, dzh : (N, T, 3*H) float, overwritten
        Gradients of all steps before the activations: on the input's side, and on the state's.
    dh : (N, H) float, overwritten
        Gradient of the first state; zeros where there was no ``h0``.
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
        x=(x, "NTI"),
        h0=(h0, "NH"),
        gates=(gates, "NTG"),
        hn=(hn, "NTH"),
        hs=(hs, "NSH"),
        lengths=(lengths, "N"),
        wx=(wx, "IG"),
        wh=(wh, "HG"),
        dz=(dz, "NTG"),
        dzh=(dzh, "NTG"),
        dh=(dh, "NH"),
        dx=(dx, "NTI"),
        dwx=(dwx, "IG"),
        dwh=(dwh, "HG"),
        db=(db, "G"),
        dbh=(dbh, "H"),
    )
    check_gates("gru_backward", wh, 3)
    check_sequences("gru_backward", x, hs, dout, lengths, column)
    check_bptt("gru_backward", bptt_steps)
    steps, units = x.shape[1], wh.shape[0]
    dh[...] = 0
    for s, t, before, _after, on in reversed(list(running(steps, reverse, lengths))):
        dh += upstream(dout, units, t, on, column, s == steps - 1)
        r, u, n = np.split(gates[:, t], 3, axis=1)
        dn = dh * (1 - u) * (1 - n * n)
        dr, du = dn * hn[:, t] * r * (1 - r), dh * (hs[:, before] - n) * u * (1 - u)
        dz[:, t] = np.where(on, np.concatenate([dr, du, dn], axis=1), 0)
        dzh[:, t] = np.where(on, np.concatenate([dr, du, dn * r], axis=1), 0)
        dh[...] = np.where(on, dh * u + dzh[:, t] @ wh.T, dh)
        dh[...] = np.where(borders(s, t, on, reverse, lengths, bptt_steps), 0, dh)
        if dx is not None:
            dx[:, t] = dz[:, t] @ wx.T
    if h0 is None:
        dh[...] = 0
    sum_steps(x, hs, dz, dzh, reverse, dwx, dwh)
    if db is not None:
        db[...] = dz.sum(axis=(0, 1))
    if dbh is not None:
        dbh[...] = dzh[:, :, 2 * units :].sum(axis=(0, 1))

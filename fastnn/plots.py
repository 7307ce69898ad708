"""Owns figures: of training runs, confusions, predictions, weights, and what layers see.

Leaves numbers to ``history`` and ``metrics``, and files to matplotlib, which is imported when a
function is called. Nothing is shown, and no setting of matplotlib's changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike

from fastnn.checks import (
    PIXEL_SCALE,
    Array,
    check_finite,
    check_integer,
    check_real,
    to_array,
    to_names,
)
from fastnn.formats import check_format
from fastnn.history import History
from fastnn.metrics import label_pair

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "bars",
    "confusion_matrix",
    "curves",
    "feature_maps",
    "filters",
    "predictions",
    "reconstructions",
]

# Okabe and Ito's colours, which the colour-blind can tell apart, without yellow, faint on white.
_COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
_WRONG = "#D55E00"
_MARKERS = "os^Dv"  # the next when the colours are used up
_KINDS = {"": ("training", "-"), "val_": ("validation", "--")}
_BESIDE: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
_MAX_INSIDE = 4  # runs whose legend leaves room for their curves
_MAX_TILES = 400
_MAX_COUNTS = 30  # classes whose counts can be read in a matrix


def curves(
    histories: History | Mapping[str, History],
    metric: str = "loss",
    ax: Axes | None = None,
    *,
    by: str = "epoch",
) -> Axes:
    """Draw a figure of one or more runs by epoch: training solid, validation dashed.

    Parameters
    ----------
    histories : History or {label: History}
    metric : str
        ``"loss"``, ``"accuracy"`` or another key of the histories; ``val_…`` is drawn, too, where
        it is there.
    ax : matplotlib Axes, optional
        To draw into; that of a new figure by default.
    by : {"epoch", "iteration"}
        The latter draws ``history.iterations``, which ``validation_every`` measures.

    Returns
    -------
    matplotlib Axes
        ``ax.figure.savefig(path)`` writes the figure.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    TypeError
        If ``histories``, ``metric`` or ``ax`` is something else.
    ValueError
        If there is no history, or one has no such metric; or ``by`` is neither.

    Examples
    --------
    >>> import fastnn as fnn
    >>> history = fnn.History()
    >>> history.add_epoch({"loss": 0.5, "val_loss": 0.6}, samples=100, seconds=0.1)
    >>> ax = curves(history)
    >>> ax.get_xlabel(), [line.get_label() for line in ax.get_lines()]
    ('epoch', ['training', 'validation'])
    """
    single = isinstance(histories, History)
    runs = {"": histories} if isinstance(histories, History) else histories
    if not isinstance(runs, Mapping) or not all(isinstance(h, History) for h in runs.values()):
        raise TypeError(f"histories: got {histories!r:.60}, expected History or {{label: History}}")
    if not runs:
        raise ValueError("histories: got none, expected at least one")
    if by not in ("epoch", "iteration"):
        raise ValueError(f"by: got {by!r}, expected 'epoch' or 'iteration'")
    if not isinstance(metric, str):
        raise TypeError(f"metric: got {metric!r:.60}, expected a name such as 'loss'")
    tables: dict[str, Mapping[str, list[float]]] = {
        label: history if by == "epoch" else history.iterations for label, history in runs.items()
    }
    for label, table in tables.items():
        if not any(table.get(kind + metric) for kind in _KINDS):
            of = "" if single else f" of {label!r}"
            if not table:
                hint = "; give fit validation_every" if by == "iteration" else ""
                raise ValueError(f"histories: got no figures by {by}{of}, expected some{hint}")
            raise ValueError(f"metric: got {metric!r}, expected one of {list(table)}{of}")
    many = len(tables) > _MAX_INSIDE
    ax = _axes(ax, 7 if many else 5, 3.5)
    from matplotlib.ticker import MaxNLocator

    for i, (label, table) in enumerate(tables.items()):
        drawn = {kind: table[kind + metric] for kind in _KINDS if table.get(kind + metric)}
        for kind, y in drawn.items():
            name, style = _KINDS[kind]
            ax.plot(
                range(1, len(y) + 1) if by == "epoch" else table["iteration"],
                y,
                linestyle=style,
                color=_COLORS[(bool(kind) if single else i) % len(_COLORS)],
                marker=_MARKERS[i // len(_COLORS) % len(_MARKERS)],
                markersize=3,
                markevery=max(1, len(y) // 15),
                label=name if single else label if kind == next(iter(drawn)) else None,
            )
    if not single and any(table.get(f"val_{metric}") for table in tables.values()):
        for name, style in _KINDS.values():  # say once what the styles mean
            ax.plot([], [], color="gray", linestyle=style, label=name)
    ax.legend(frameon=False, **_BESIDE if many else {})
    ax.set(xlabel=by, ylabel=metric, title=f"{metric} by {by}".capitalize())
    ax.xaxis.set_major_locator(
        MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
    )
    ax.grid(alpha=0.3)
    return ax


def confusion_matrix(
    matrix: ArrayLike, names: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """Draw how often each class is taken for each other: what is right blue, mistakes orange.

    Blue is the darker the larger the share of the class, orange the darker the more mistakes.

    Parameters
    ----------
    matrix : (C, C) array_like of int
        As ``fastnn.metrics.confusion_matrix`` counts: true classes in rows.
    names : sequence of str, optional
        Of the classes, in order; their numbers by default.
    ax : matplotlib Axes, optional
        To draw into; that of a new figure by default.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    TypeError
        If ``matrix`` holds no integers, ``names`` no strings, or ``ax`` is something else.
    ValueError
        If ``matrix`` is not square, has negative counts or only 0, or there are too few names.

    Examples
    --------
    >>> ax = confusion_matrix([[8, 2], [1, 9]], names=["cat", "dog"])
    >>> ax.get_title()
    '85.00% of 20 right'
    """
    counts = to_array("matrix", matrix)
    if counts.dtype.kind not in "ui":
        raise TypeError(f"matrix: got dtype {counts.dtype}, expected integers")
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not counts.size:
        raise ValueError(f"matrix: got shape {counts.shape}, expected (C, C)")
    if counts.min() < 0 or not counts.any():
        raise ValueError(f"matrix: got {counts.min()} as the least, expected counts, not all 0")
    classes = len(counts)
    shown = None if names is None else to_names(names, classes)
    side = min(max(0.5 * classes + 1, 4), 12)
    ax = _axes(ax, side, side)

    right = np.eye(classes, dtype=bool)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shade = np.where(right, share, counts / max(1, counts[~right].max(initial=0)))
    for hidden, cmap in ((~right, "Blues"), (right | (counts == 0), "Oranges")):
        ax.imshow(np.ma.masked_array(shade, hidden), cmap=cmap, vmin=0, vmax=1.2)
    if classes <= _MAX_COUNTS:
        for i, j in np.argwhere(counts):
            color = "white" if shade[i, j] > 0.7 else "black"
            ax.text(j, i, f"{counts[i, j]}", ha="center", va="center", color=color, fontsize=8)
    if classes <= _MAX_COUNTS or shown:
        ax.set(xticks=range(classes), yticks=range(classes))
    if shown:
        ax.set_yticklabels(shown[:classes])
        ax.set_xticklabels(shown[:classes], rotation=45, ha="right", rotation_mode="anchor")
    total = counts.sum()
    title = f"{counts.trace() / total:.2%} of {total:,} right"
    ax.set(xlabel="predicted class", ylabel="true class", title=title)
    return ax


def predictions(
    images: ArrayLike,
    y: ArrayLike,
    y_pred: ArrayLike,
    names: Sequence[str] | None = None,
    columns: int = 5,
    *,
    data_format: str = "channels_last",
    figure: Figure | None = None,
) -> Figure:
    """Draw images with their predicted and, in parentheses, true classes; mistakes are framed.

    Parameters
    ----------
    images : (N, H, W), (N, H, W, 1), (N, H, W, 3) or (N, H·H) array_like
        At most 400; pass a slice.
    y, y_pred : (N,) array_like of int
        True and predicted classes.
    names : sequence of str, optional
        Of all classes, in order; their numbers by default.
    columns : int
        Images in a row.
    data_format : {"channels_last", "channels_first"}
        As of the model; the latter takes (N, 1, H, W) and (N, 3, H, W).
    figure : matplotlib Figure or SubFigure, optional
        To draw into; a new one by default.

    Returns
    -------
    matplotlib Figure
        Or the SubFigure that was given.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    TypeError
        If ``images`` are no numbers, labels or ``columns`` no integers, ``names`` no strings.
    ValueError
        If shapes or lengths do not fit, there are no images or too many, a value is NaN or
        infinite, a label is negative or has no name, or ``data_format`` is neither.

    Examples
    --------
    >>> import numpy as np
    >>> figure = predictions(np.eye(8)[None], [7], [1])
    >>> figure.axes[0].get_title()
    '1 (7)'
    """
    columns = check_integer("columns", columns, 1)
    pictures = _pictures("images", images, data_format)
    shown = None if names is None else to_names(names)
    true, predicted, classes = label_pair(y, y_pred, None if shown is None else len(shown))
    if len(true) != len(pictures):
        raise ValueError(f"y: got {len(true)} labels, expected {len(pictures)}, one for each image")
    shown = shown or [str(label) for label in range(classes)]
    captions = [f"{shown[p]} ({shown[t]})" for t, p in zip(true, predicted, strict=True)]
    lines = 1 if max(map(len, captions)) <= 40 // columns + 2 else 2
    if lines == 2:
        captions = [caption.replace(" (", "\n(", 1) for caption in captions]
    figure, cells = _tiles(pictures, columns, figure, lines, cmap="gray_r")
    for axes, caption, right in zip(cells, captions, true == predicted, strict=True):
        axes.set_title(caption, fontsize=9, pad=3)
        if not right:
            axes.title.set(color=_WRONG, weight="bold")
            axes.spines[:].set(visible=True, color=_WRONG, linewidth=2)
    figure.suptitle("predicted (true)", fontsize="medium")
    return figure


def filters(w: ArrayLike, columns: int = 8, *, figure: Figure | None = None) -> Figure:
    """Draw the weights of a layer as images, all on one scale: red positive, blue negative.

    Parameters
    ----------
    w : (kh, kw, C, K) or (I, O) array_like
        Weights of a convolution, of whose filters the C channels follow each other; or of a dense
        layer, I being a square number. At most 400 images; pass a slice.
    columns : int
        Images in a row.
    figure : matplotlib Figure or SubFigure, optional
        To draw into; a new one by default.

    Returns
    -------
    matplotlib Figure
        Or the SubFigure that was given.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    TypeError
        If ``w`` holds no numbers or ``columns`` is no integer.
    ValueError
        If the shape is another, there are too many images, or a value is NaN or infinite.

    Examples
    --------
    >>> import fastnn as fnn
    >>> model = fnn.Sequential([fnn.Conv2D(4, 3)], input_shape=(28, 28, 1), seed=0)
    >>> figure = filters(model.layers[0].w)
    >>> len(figure.axes)  # four filters and the scale
    5
    """
    weights = to_array("w", w)
    side = int(np.sqrt(len(weights))) if weights.ndim == 2 else 0
    if not weights.size or (weights.ndim != 4 and side * side != len(weights)):
        raise ValueError(
            f"w: got shape {weights.shape}, expected (kh, kw, C, K) or (I, O), I a square number"
        )
    if weights.ndim == 2:
        weights = weights.reshape(side, side, 1, -1)
    height, width = weights.shape[:2]
    pictures = _pictures("w", weights.transpose(3, 2, 0, 1).reshape(-1, height, width))
    limit = float(np.abs(pictures).max()) or 1.0
    figure, cells = _tiles(
        pictures, columns, figure, scale="weight", cmap="RdBu_r", vmin=-limit, vmax=limit
    )
    for axes in cells:
        axes.spines[:].set(visible=True, color="lightgray")
    figure.suptitle(f"{len(pictures)} filters, {height}×{width}", fontsize="medium")
    return figure


def feature_maps(
    maps: ArrayLike,
    columns: int = 8,
    *,
    data_format: str = "channels_last",
    figure: Figure | None = None,
) -> Figure:
    """Draw the channels of a layer's output for one image, all on one scale.

    Parameters
    ----------
    maps : (H, W, C) or (1, H, W, C) array_like
        As ``model.features(x[:1], layer)`` returns; at most 400 channels.
    columns : int
        Channels in a row.
    data_format : {"channels_last", "channels_first"}
        As of the model; the latter takes (C, H, W) or (1, C, H, W).
    figure : matplotlib Figure or SubFigure, optional
        To draw into; a new one by default.

    Returns
    -------
    matplotlib Figure
        Or the SubFigure that was given.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    TypeError
        If ``maps`` holds no numbers or ``columns`` is no integer.
    ValueError
        If the shape is another, there are too many channels, a value is NaN or infinite, or
        ``data_format`` is neither.

    Examples
    --------
    >>> import fastnn as fnn
    >>> import numpy as np
    >>> model = fnn.Sequential([fnn.Conv2D(4, 3)], input_shape=(28, 28, 1), seed=0)
    >>> figure = feature_maps(model.features(np.ones((1, 28, 28, 1)), layer=0))
    >>> figure.get_suptitle()
    '4 feature maps, 26×26'
    """
    array = to_array("maps", maps)
    first = check_format("data_format", data_format) == "channels_first"
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim != 3 or not array.size:
        axes = "C, H, W" if first else "H, W, C"
        raise ValueError(
            f"maps: got shape {array.shape}, expected ({axes}) or (1, {axes}) for "
            f"data_format={data_format!r}"
        )
    pictures = _pictures("maps", array if first else array.transpose(2, 0, 1))
    figure, _ = _tiles(pictures, columns, figure, scale="output", cmap="viridis")
    count, height, width = pictures.shape
    figure.suptitle(f"{count} feature maps, {height}×{width}", fontsize="medium")
    return figure


def reconstructions(
    images: ArrayLike,
    outputs: ArrayLike | Mapping[str, ArrayLike],
    columns: int = 10,
    *,
    data_format: str = "channels_last",
    figure: Figure | None = None,
) -> Figure:
    """Draw images over what a model made of them, on the scale of the images.

    Parameters
    ----------
    images : (N, H, W), (N, H, W, 1), (N, H, W, 3) or (N, H·H) array_like
        Of which the first ``columns`` are drawn.
    outputs : array_like as images, or {label: array_like}
        The latter draws a row for each label: ``{"noisy": …, "output": …}``. Here as in images,
        uint8 counts as scaled by 1/255.
    columns : int
        At most so many images.
    data_format : {"channels_last", "channels_first"}
        As of the model; the latter takes (N, 1, H, W) and (N, 3, H, W).
    figure : matplotlib Figure or SubFigure, optional
        To draw into; a new one by default.

    Returns
    -------
    matplotlib Figure
        Or the SubFigure that was given.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    TypeError
        If images or outputs are no numbers, or ``columns`` is no integer.
    ValueError
        If shapes differ or fit no images, there are none, a value is NaN or infinite, or
        ``data_format`` is neither.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).random((3, 8, 8))
    >>> figure = reconstructions(x, {"noisy": x + 0.1, "output": x})
    >>> [axes.get_ylabel() for axes in figure.axes[::3]]
    ['input', 'noisy', 'output']
    """
    columns = check_integer("columns", columns, 1, _MAX_TILES)
    rows = outputs if isinstance(outputs, Mapping) else {"output": outputs}
    pictures = [_pictures("images", images, data_format, columns)]
    for label, row in rows.items():
        name = f"outputs[{label!r}]" if rows is outputs else "outputs"
        pictures.append(_pictures(name, row, data_format, columns))
        if pictures[-1].shape != pictures[0].shape:
            raise ValueError(
                f"{name}: got shape {np.shape(row)}, expected that of images, {np.shape(images)}"
            )
    count, low, high = len(pictures[0]), pictures[0].min(), pictures[0].max()
    figure, cells = _tiles(
        np.concatenate(pictures), count, figure, cmap="gray_r", vmin=low, vmax=high
    )
    for axes, label in zip(cells[::count], ["input", *rows], strict=True):
        axes.set_ylabel(label)
    return figure


def bars(
    values: Mapping[str, float] | Mapping[str, Mapping[str, float]], ax: Axes | None = None
) -> Axes:
    """Draw numbers as bars with their values: one for each label, or groups of them.

    Parameters
    ----------
    values : {label: number} or {group: {label: number}}
        Labels have the same colour in all groups; a group may lack some.
    ax : matplotlib Axes, optional
        To draw into; that of a new figure by default.

    Returns
    -------
    matplotlib Axes
        With numbers along x; ``ax.set_xlabel`` says of what.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    TypeError
        If ``values`` are no numbers, by a label, or ``ax`` is something else.
    ValueError
        If there are none, or one is NaN or infinite.

    Examples
    --------
    >>> ax = bars({"max": {"MNIST": 0.99, "Fashion": 0.92}, "average": {"MNIST": 0.98}})
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['max', 'average']
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"values: got {values!r:.60}, expected {{label: number}}, or groups of it")
    grouped = any(isinstance(value, Mapping) for value in values.values())
    groups = cast(Any, values if grouped else {k: {"": v} for k, v in values.items()})
    for group, members in groups.items():
        if not isinstance(members, Mapping):
            raise TypeError(f"values[{group!r}]: got {members!r:.60}, expected {{label: number}}")
        for label, value in members.items():
            check_real(f"values[{group!r}]" + f"[{label!r}]" * grouped, value)
    labels = list(dict.fromkeys(label for members in groups.values() for label in members))
    if not labels:
        raise ValueError("values: got none, expected at least one")
    ax = _axes(ax, 6, max(1.5, 0.28 * len(groups) * len(labels) + 1))

    thick = 0.8 / len(labels)
    for i, label in enumerate(labels):
        at = [g for g, members in enumerate(groups.values()) if label in members]
        drawn = ax.barh(
            np.add(at, (i - (len(labels) - 1) / 2) * thick),
            [members[label] for members in groups.values() if label in members],
            0.95 * thick,
            color=_COLORS[i % len(_COLORS)],
            label=label,
        )
        ax.bar_label(drawn, fmt="{:.4g}", padding=3, fontsize=8)
    ax.set_yticks(range(len(groups)), [str(group) for group in groups])
    ax.invert_yaxis()
    ax.margins(x=0.12)
    ax.spines[["top", "right"]].set_visible(False)
    if grouped:
        ax.legend(frameon=False, **_BESIDE)
    return ax


def _new_figure(width: float, height: float) -> Figure:
    """Return a figure of so many inches, which pyplot does not know."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('fastnn.plots needs matplotlib: pip install "fastnn[plot]"') from error
    return Figure(figsize=(width, height), layout="constrained")


def _axes(ax: Axes | None, width: float, height: float) -> Axes:
    """Return the axes that were given, or those of a new figure."""
    if ax is None:
        return _new_figure(width, height).add_subplot()
    if not hasattr(ax, "set_xlabel"):
        raise TypeError(f"ax: got {ax!r:.60}, expected matplotlib Axes")
    return ax


def _pictures(
    name: str, value: ArrayLike, data_format: str = "channels_last", most: int | None = None
) -> Array:
    """Return images as (N, H, W) or (N, H, W, 3), the first ``most`` or all of them."""
    array = to_array(name, value)
    first = check_format("data_format", data_format) == "channels_first"
    if first and array.ndim == 4:
        array = array.transpose(0, 2, 3, 1)
    side = int(np.sqrt(array.shape[1])) if array.ndim == 2 else 0
    if array.ndim == 2 and side * side == array.shape[1]:
        array = array.reshape(-1, side, side)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    color = array.ndim == 4 and array.shape[3] == 3
    if not array.size or not (array.ndim == 3 or color):
        channels = "(N, 1, H, W), (N, 3, H, W)" if first else "(N, H, W, 1), (N, H, W, 3)"
        raise ValueError(
            f"{name}: got shape {np.shape(value)}, expected (N, H, W), {channels}, or (N, H·H), "
            f"not empty, for data_format={data_format!r}"
        )
    scale = PIXEL_SCALE if array.dtype == np.uint8 else 1.0  # as the model sees them
    array = scale * array[:most].astype(np.float64, order="C")
    if len(array) > _MAX_TILES:
        raise ValueError(
            f"{name}: got {len(array)} images, expected at most {_MAX_TILES}: slice it"
        )
    check_finite(name, array)
    return array


def _tiles(
    pictures: Array,
    columns: int,
    figure: Figure | None,
    lines: int = 0,
    scale: str = "",
    **style: Any,
) -> tuple[Figure, list[Axes]]:
    """Draw images in rows of ``columns``, with room for captions and a scale, if it has a name.

    Return the axes of each image, too.
    """
    columns = min(check_integer("columns", columns, 1), len(pictures))
    rows = -(-len(pictures) // columns)
    if figure is None:
        width = min(8 / columns, 1.0)
        height = width * pictures.shape[1] / pictures.shape[2] + 0.18 * lines
        figure = _new_figure(max(columns * width, 3) + 0.9 * bool(scale), rows * height + 0.4)
    elif not hasattr(figure, "subplots"):
        raise TypeError(f"figure: got {figure!r:.60}, expected matplotlib Figure or SubFigure")
    style = {"vmin": pictures.min(), "vmax": pictures.max()} | style
    if pictures.ndim == 4:  # matplotlib scales no colours
        low, high = style["vmin"], style["vmax"]
        pictures = np.clip((pictures - low) / (high - low or 1), 0, 1)
    cells: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in cells[len(pictures) :]:
        axes.set_axis_off()
    for axes, picture in zip(cells, pictures, strict=False):
        axes.imshow(picture, **style)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    if scale:
        figure.colorbar(cells[0].images[0], ax=cells, label=scale, shrink=0.8)
    return figure, cells[: len(pictures)]

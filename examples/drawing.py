"""Owns what the figures of the examples share: curves by epoch and rows of images.

Leaves what is trained and shown to the examples, and files to matplotlib.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fastnn as fnn


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure, of inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def draw_curves(part: Any, history: fnn.History, names: Sequence[str]) -> None:
    """Draw training and test curves by epoch, an axis for each of ``names``."""
    epochs = range(1, history.epochs + 1)
    for axes, name in zip(np.ravel(part.subplots(1, len(names))), names, strict=True):
        axes.plot(epochs, history[name], ".-", label="training")
        axes.plot(epochs, history[f"val_{name}"], ".-", label="test")
        axes.set(xlabel="epoch", ylabel=name)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)


def draw_images(
    part: Any,
    title: str,
    images: np.ndarray,
    captions: Sequence[str] = (),
    rows: int = 1,
    cmap: str = "gray_r",
) -> None:
    """Draw images (N, H, W) side by side, in ``rows`` rows of as many."""
    part.suptitle(title, fontsize="medium")
    cells = part.subplots(rows, -(-len(images) // rows), squeeze=False)
    for axes in cells.flat:
        axes.set_axis_off()
    for axes, image in zip(cells.flat, images, strict=False):
        axes.imshow(image, cmap=cmap)
    for axes, caption in zip(cells.flat, captions, strict=False):
        axes.set_title(caption, fontsize="medium")


def save(figure: Any, path: Path) -> None:
    """Write the figure, and its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    print(f"figure: {path}")

"""Owns what report_a.py to report_e.py share: options, tables, figures, and the page of them all.

Leaves recipes and their numbers to these scripts. ``python examples/reports.py out/reports docs``
joins what they left in the first folder to reports.md in the second: ``make reports`` does it all.
"""

import argparse
import csv
import io
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import fastnn as fnn

HEAD = """# Five reports, again

Five course reports describe networks written from scratch in NumPy. Each was so slow that its
author cut the data, the epochs or the network. `examples/report_a.py` to `report_e.py` train what
they describe, and this page is what these print: "report" is what the report says, "here" what this
run found, "s" the seconds of its training, without those of validation. A section's last line says
how it was made; times are upper bounds where other programs kept the processors busy.

`make reports` makes the page anew, by default from quick forms, of fewer epochs or networks.
`make reports FORM=` follows the recipes as they are written; `FORM=--full` adds what the reports
had to cut.
"""


class Report:
    """What one script prints and saves: tables also as CSV, figures, and all of it as Markdown.

    Parameters
    ----------
    letter, title : str
    seed : int
        The default of ``--seed``.

    Attributes
    ----------
    quick, full : bool
    seed : int
    """

    def __init__(self, letter: str, title: str, seed: int = 0) -> None:
        title = f"Report {letter.upper()}: {title}"
        parser = argparse.ArgumentParser(description=title)
        form = parser.add_mutually_exclusive_group()
        form.add_argument("--quick", action="store_true", help="less of the same, in seconds")
        form.add_argument("--full", action="store_true", help="add all data, or a better recipe")
        parser.add_argument("--seed", type=int, default=seed, help=f"{seed} by default")
        parser.add_argument("--out", type=Path, default=Path("out/reports"), help="a folder")
        options = parser.parse_args()
        self.quick, self.full, self.seed = options.quick, options.full, options.seed
        self._folder: Path = options.out
        self._name = f"report_{letter}"
        if not 0 <= self.seed < 2**64:
            parser.error(f"argument --seed: got {self.seed}, expected 0 to 2**64 - 1")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / f"{self._name}.md").touch()
        except OSError as error:
            parser.error(f"argument --out: {error}")
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            sys.exit("the figures need matplotlib: pip install matplotlib")
        self._start = time.perf_counter()
        self._page: list[str] = []
        self.say(f"## {title}")

    def say(self, text: str) -> None:
        """Add a paragraph."""
        self._page.append(text)
        print(f"{text}\n", flush=True)

    def table(self, name: str, rows: Iterable[Mapping[str, object]]) -> None:
        """Add a table; the first row's keys are its columns. The CSV file grows row by row."""
        cells: list[list[str]] = []
        with open(self._folder / f"{self._name}-{name}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            for row in rows:
                for line in [row.values()] if cells else [row.keys(), row.values()]:
                    cells.append([str(cell) for cell in line])
                    writer.writerow(cells[-1])
                file.flush()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        cells.insert(1, ["-" * width for width in widths])
        lines = (
            " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            for line in cells
        )
        self.say("\n".join(f"| {line} |" for line in lines))

    def figure(self, name: str, figure: Any, caption: str) -> None:
        """Add a figure, in 256 colours to keep its file small."""
        from PIL import Image

        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=80)
        path = self._folder / f"{self._name}-{name}.png"
        Image.open(drawn).convert("RGB").quantize().save(path, optimize=True)
        self.say(f"{caption}\n\n![{name}]({path.name})")

    def close(self) -> None:
        """Say how long all took, and write the Markdown."""
        form = " --quick" if self.quick else " --full" if self.full else ""
        seconds = time.perf_counter() - self._start
        threads = fnn.get_num_threads()
        self.say(
            f"`python examples/{self._name}.py{form}`: {seconds:.0f} s in all, "
            f"{threads} thread{'s' if threads > 1 else ''}."
        )
        page = "\n\n".join(self._page) + "\n"
        (self._folder / f"{self._name}.md").write_text(page, encoding="utf-8")


def load(name: str) -> Any:
    """Return training and test set of "mnist" or "fashion_mnist", or end with what is missing."""
    try:
        return getattr(fnn.datasets, f"load_{name}")()
    except fnn.datasets.DataError as error:
        sys.exit(str(error))


def panels(rows: int, columns: int, width: float = 3.4, height: float = 2.7) -> tuple[Any, Any]:
    """Return a figure and its axes (rows, columns), each of this size in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def one_legend(figure: Any) -> None:
    """Put below all panels the legend that each of them has, where it hides no line."""
    for axes in figure.axes:
        axes.get_legend().remove()
    known = figure.axes[0].get_legend_handles_labels()
    figure.legend(*known, loc="outside lower center", ncols=9, frameon=False)


def percent(share: float, digits: int = 2) -> str:
    """Write a share as percents, without their sign."""
    return f"{100 * share:.{digits}f}"


def main() -> None:
    source, docs = map(Path, sys.argv[1:])
    figures = docs / "reports"
    figures.mkdir(exist_ok=True)
    pages = [path.read_text(encoding="utf-8") for path in sorted(source.glob("report_?.md"))]
    text = "\n".join([HEAD, *pages]).replace("](report_", "](reports/report_")
    (docs / "reports.md").write_text(text, encoding="utf-8")
    for path in source.glob("report_*.png"):
        shutil.copy(path, figures)


if __name__ == "__main__":
    main()

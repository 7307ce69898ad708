"""Runs every Python block in README.md and docs/*.md, and compares what it prints with the page.

A ``text`` block right after a ``python`` block is its exact output; ``make docs`` writes these
outputs, and docs/api.md, anew. Examples in docstrings run, too. Whether the prose is true is left
to its readers.
"""

import contextlib
import doctest
import importlib
import io
import os
import pkgutil
import re
import runpy
import tempfile
from pathlib import Path

import numpy as np
import pytest

import fastnn as fnn
from fastnn import backend as backends

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")


def small_set(*, download=True):
    """In place of MNIST: the 8x8 digits, three times as large in a frame, repeated."""
    train, test = fnn.datasets.load_digits()

    def enlarge(x, y, n):
        rows = np.arange(n) % len(x)
        large = x.repeat(3, axis=1).repeat(3, axis=2)
        return np.pad(large, [(0, 0), (2, 2), (2, 2)])[rows], y[rows]

    return enlarge(*train, 10_100), enlarge(*test, 300)


def run(page):
    """Yield each block of a page, in order and in one namespace, with what it prints."""
    text = page.read_text(encoding="utf-8")
    names = {}
    for block in BLOCK.finditer(text):
        lines = "\n" * text[: block.start("code")].count("\n")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(lines + block["code"], str(page), "exec"), names)
        yield block, printed.getvalue()


@pytest.mark.filterwarnings("ignore:layer . .Swish. computes outside")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run_and_print_what_the_page_says(page, compiled, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fnn.datasets, "load_mnist", small_set)
    monkeypatch.setattr(fnn.datasets, "load_fashion_mnist", small_set)
    for block, printed in run(page):
        if block["output"] is not None:
            assert printed == block["output"], "make docs writes outputs anew"


def prose(page):
    """Return a page without its blocks of code."""
    return CODE.sub("", page.read_text(encoding="utf-8"))


def anchors(page):
    """Return what GitHub makes of the headings, for links to them."""
    titles = HEADING.findall(prose(page))
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "bench/README.md"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_links_lead_somewhere(page):
    for target, anchor in LINK.findall(prose(page)):
        file = page.parent / target if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


def test_every_page_is_linked_from_the_readme():
    linked = {target for target, _ in LINK.findall(prose(ROOT / "README.md"))}
    assert {f"docs/{page.name}" for page in PAGES[1:]} <= linked


API = runpy.run_path(str(ROOT / "docs" / "make_api.py"))
PUBLIC = {name: thing for things in API["public"]().values() for name, thing in things}
MODULES = sorted(module.name for module in pkgutil.walk_packages(fnn.__path__, "fastnn."))


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module, compiled, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert not doctest.testmod(importlib.import_module(module)).failed


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented_with_an_example(name):
    text = PUBLIC[name].__doc__ or ""
    assert "\n    Examples\n    --------\n" in text
    assert "    Parameters\n" not in text or "    Raises\n" in text


def test_api_page_is_up_to_date():
    assert API["PAGE"].read_text(encoding="utf-8") == API["page"](), "run make docs"


def write_outputs():
    """Put what the blocks print into the pages."""
    API["PAGE"].write_text(API["page"](), encoding="utf-8")
    fnn.datasets.load_mnist = fnn.datasets.load_fashion_mnist = small_set
    for page in PAGES:
        text, shift = page.read_text(encoding="utf-8"), 0
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            for block, printed in run(page):
                if block["output"] is not None:
                    start, end = (at + shift for at in block.span("output"))
                    text = text[:start] + printed + text[end:]
                    shift += len(printed) - (end - start)
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    assert backends.compiled is not None, backends.missing
    os.chdir(ROOT)
    write_outputs()

"""Writes ``docs/api.md`` from the docstrings of all public names: ``python docs/make_api.py``.

Owns the order of the page and its Markdown; what it says is left to the docstrings.
"""

import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import fastnn as fnn

PAGE = Path(__file__).with_name("api.md")
GROUPS = {  # the modules of each, or packages, in the order of the page
    "Model": ["model", "saving", "history", "files", "checks"],
    "Layers": [
        "layers.dense",
        "layers.conv2d",
        "layers.pool2d",
        "layers.embedding",
        "layers.recurrent",
        "layers.normalization",
        "layers.dropout",
        "layers.activations",
        "layers.shape",
        "layers",
    ],
    "Losses": ["losses"],
    "Optimizers": ["optimizers"],
    "Schedules": ["schedules"],
    "Callbacks": ["callbacks"],
    "Initializers": ["initializers"],
    "Regularizers": ["regularizers"],
    "Metrics": ["metrics"],
    "Plots": ["plots"],
    "Data sets": ["datasets.images", "datasets.idx", "datasets.split", "datasets.standardize"],
    "Backend": ["backend"],
}
NAMESPACES = {"fnn": fnn} | {
    f"fnn.{name}": getattr(fnn, name) for name in ("metrics", "plots", "datasets")
}
HEAD = """# API

Every public name, made from its docstring by `make docs`. The examples run with
`import numpy as np`, `import fastnn as fnn` and the names of their module.

"""


def public() -> dict[str, list[tuple[str, Any]]]:
    """Return the public objects of each group with their names, in the order of their sources."""
    found = [
        (f"{space}.{name}", getattr(module, name))
        for space, module in NAMESPACES.items()
        for name in module.__all__
    ]
    found.sort(key=lambda pair: inspect.getsourcelines(pair[1])[1])
    groups: dict[str, list[tuple[str, Any]]] = {}
    for group, modules in GROUPS.items():
        groups[group] = []
        for module in modules:
            here = [
                pair for pair in found if f"{pair[1].__module__}.".startswith(f"fastnn.{module}.")
            ]
            groups[group] += here
            found = [pair for pair in found if pair not in here]
    assert not found, f"GROUPS has no place for {found}"
    return groups


def signature(name: str, thing: Any, *, method: bool = False) -> str:
    """Return a call as a code block, without type hints."""
    if isinstance(thing, property) or (isinstance(thing, type) and issubclass(thing, Exception)):
        return ""
    parameters = list(inspect.signature(thing).parameters.values())[method:]
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    call = re.sub(r"<class '([\w.]+)'>", r"\1", str(inspect.Signature(plain)))
    lines = textwrap.wrap(name + call, 96, subsequent_indent=" " * 4, break_long_words=False)
    return "\n".join(["```text", *lines, "```", "", ""])


def markdown(docstring: str) -> str:
    """Turn a docstring in NumPy's style into Markdown."""
    parts = re.split(r"^(\w[\w ]*)\n-{3,}\n", docstring.replace("``", "`"), flags=re.MULTILINE)
    text = parts[0].strip() + "\n"
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        if title == "Examples":
            shown = re.sub(r" *# doctest:.*", "", body.strip()).replace("<BLANKLINE>", "")
            text += f"\n```pycon\n{shown}\n```\n"
            continue
        text += f"\n**{title}**\n\n"
        for entry in re.split(r"\n(?=\S)", body.strip()):
            term, *rest = entry.split("\n")
            name, colon, kind = term.partition(" : ")
            kind = f" : {kind}" if colon else ""
            words = " ".join(line.strip() for line in rest if line)
            text += f"- `{name}`{kind}{' — ' if words else ''}{words}\n"
    return text


def documented(thing: Any) -> list[tuple[str, Any]]:
    """Return the methods and properties that a class defines and documents."""
    return [
        (name, method)
        for name, method in vars(thing).items()
        if (inspect.isfunction(method) or isinstance(method, property))
        and method.__doc__
        and (name[0] != "_" or name == "__call__")
    ]


def anchor(name: str) -> str:
    return re.sub(r"[^\w-]", "", name.lower())


def page() -> str:
    """Return the whole page."""
    groups = public()
    text = HEAD + "".join(f"- [{group}](#{anchor(group.replace(' ', '-'))})\n" for group in groups)
    for group, things in groups.items():
        text += f"\n## {group}\n\n| name | |\n|---|---|\n"
        for name, thing in things:
            first = inspect.getdoc(thing).split("\n\n")[0].replace("\n", " ").replace("``", "`")
            text += f"| [`{name}`](#{anchor(name)}) | {first} |\n"
        for name, thing in things:
            text += f"\n### {name}\n\n{signature(name, thing)}{markdown(inspect.getdoc(thing))}"
            for short, method in documented(thing) if isinstance(thing, type) else []:
                called = name.rpartition(".")[2] + "." * (short != "__call__")
                called += short.replace("__call__", "")
                text += f"\n#### {called}\n\n{signature(called, method, method=True)}"
                text += markdown(inspect.getdoc(method))
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

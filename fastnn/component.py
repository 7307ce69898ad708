"""Owns what layers, losses, optimizers and initializers share: options, repr, choice by name.

Leaves what they compute to their own modules.
"""

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

__all__ = ["Component", "choose"]


class Component:
    """An object that is described by the arguments of its ``__init__``, kept as attributes.

    Attributes
    ----------
    records : bool
        True: the methods named in ``recorded`` compute through the kernels ``k`` only, so that a
        plan can record them. A subclass that overrides one of these methods, and does not say so
        itself, is taken not to.
    """

    records: ClassVar[bool] = False
    recorded: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = vars(cls)
        if "records" not in own and any(method in own for method in cls.recorded):
            cls.records = False

    def config(self) -> dict[str, Any]:
        """Return the arguments with which an equal object can be made."""
        names = list(inspect.signature(type(self).__init__).parameters)[1:]
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self).__init__).parameters
        shown = []
        for name, value in self.config().items():
            default = parameters[name].default
            if default is inspect.Parameter.empty:
                shown.append(repr(value))
            elif not _same(value, default):
                shown.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


def _same(value: object, default: object) -> bool:
    """Say whether an option has its default, which may be the name of what was chosen."""
    if isinstance(value, tuple) and isinstance(default, int):  # for all axes and sides alike
        return all(_same(item, default) for item in value)
    if isinstance(value, Component) and isinstance(default, str):
        return type(value).__name__.lower() == default.replace("_", "")
    if isinstance(value, Component) and isinstance(default, Component):
        value, default = (type(value), value.config()), (type(default), default.config())
    return type(value) is type(default) and value == default


T = TypeVar("T", bound=Component)


def choose(argument: str, value: object, base: type[T], known: Mapping[str, type[T]]) -> T:
    """Return the object that ``value`` is, or names.

    Parameters
    ----------
    argument : str
        Name for the error message.
    value : base or str
    base : type
    known : mapping of str to type
        What each name stands for, with default options.

    Raises
    ------
    TypeError
        If it is neither a name nor a ``base``.
    ValueError
        If the name is not known; the message lists those that are.
    """
    if isinstance(value, base):
        return value
    names = ", ".join(repr(name) for name in known)
    article = "an" if base.__name__[0] in "AEIOU" else "a"
    expected = f"expected one of {names}, or {article} {base.__name__} object"
    if isinstance(value, str):
        if value not in known:
            raise ValueError(f"{argument}: unknown name {value!r:.60}; {expected}")
        return known[value]()
    if isinstance(value, type) and issubclass(value, base):
        name = value.__name__
        raise TypeError(f"{argument}: got the class {name}; make an object of it: {name}(...)")
    raise TypeError(f"{argument}: got {value!r:.60} ({type(value).__name__}); {expected}")

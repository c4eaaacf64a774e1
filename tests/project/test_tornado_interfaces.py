"""The package uses documented interfaces of Tornado only; ruff's SLF001 sees what is used through another object."""

import ast
import importlib
import inspect
import pkgutil
import textwrap
from functools import cache

import pytest

import genstatus_server


def tornado_bases(cls: type) -> list[type]:
    return [base for base in cls.__mro__ if base.__module__.startswith("tornado.")]


def subclasses_of_tornado() -> list[type]:
    names = [each.name for each in pkgutil.walk_packages(genstatus_server.__path__, "genstatus_server.")]
    modules = [importlib.import_module(name) for name in names if not name.endswith("__main__")]
    classes = [cls for module in modules for cls in vars(module).values() if inspect.isclass(cls)]
    return [
        cls for cls in dict.fromkeys(classes) if cls.__module__.startswith("genstatus_server") and tornado_bases(cls)
    ]


@cache
def names_in(cls: type) -> frozenset[str]:
    """What the class body defines, and what its methods use of `self` or `super()`."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_own(node.value)]
    return frozenset(vars(cls)) | {node.attr for node in used}


def is_own(value: ast.expr) -> bool:
    is_super = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "super"
    return is_super or (isinstance(value, ast.Name) and value.id in {"self", "cls"})


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def is_deprecated(cls: type, name: str) -> bool:
    return name != "__init__" and "deprecated" in (inspect.getdoc(vars(cls).get(name)) or "").lower()


@pytest.mark.parametrize("cls", subclasses_of_tornado(), ids=lambda cls: cls.__qualname__)
def test_subclass_uses_nothing_private_or_deprecated_of_tornado(cls: type) -> None:
    own = names_in(cls)
    for base in tornado_bases(cls):
        closed = {name for name in names_in(base) if is_private(name) or is_deprecated(base, name)}
        assert not own & closed, base


def test_subclass_search_finds_known_classes_and_private_names() -> None:
    names = {cls.__name__ for cls in subclasses_of_tornado()}
    assert {"BaseHandler", "ClientStream", "Listener"} <= names
    handler = next(cls for cls in subclasses_of_tornado() if cls.__name__ == "BaseHandler")
    of_tornado = names_in(tornado_bases(handler)[0])
    assert {"_headers", "_auto_finish", "_finished", "_write_buffer"} <= of_tornado

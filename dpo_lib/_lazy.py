"""Names of a package that are imported when they are asked for: torch alone takes seconds."""

import sys
from collections.abc import Callable
from importlib import import_module


def exports(package: str, modules: dict[str, list[str]]) -> tuple[list[str], Callable, Callable]:
    """What a package needs for short import paths: its `__all__`, `__getattr__`, `__dir__`.

    Args:
        package: its `__name__`.
        modules: module of the package -> names that the package offers as its own.
    """
    home = {name: module for module, names in modules.items() for name in names}
    if both := home.keys() & modules.keys():  # the module would win once it is imported
        raise ValueError(f"{package}: a module and a name of another are both {min(both)}")

    def get(name: str):
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{home[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return sorted(home), get, lambda: sorted({*vars(sys.modules[package]), *home})

"""A settings dataclass as command-line flags and as a TOML file.

The flags are the fields: names, types, defaults, and the comment beside each field as help. A
TOML file gives the same fields by the same names; flags win over it.
"""

import argparse
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable
from pathlib import Path

METAVARS = {int: "N", float: "X", str: "TEXT"}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and which guesses no abbreviations."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> typing.NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def settings_parser(kind: type, prog: str, about: str) -> Parser:
    """A parser with one flag for each field of a settings dataclass.

    Nothing has a default here, so that a flag that was not given can be told from one that was.
    """
    parser = Parser(prog=prog, description=about, argument_default=argparse.SUPPRESS)
    parser.add_argument("--config", metavar="FILE.toml", help="settings; flags win over them")
    helps, hints = _comments(kind), typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        flag, plain = "--" + field.name.replace("_", "-"), _plain_types(hints[field.name])
        text = field.metadata.get("help", helps.get(field.name, ""))
        if _is_required(field):
            text += " (required)"
        elif (default := _default(field)) is not None:
            text += f" (default: {default})"
        options: dict = {"help": text.strip().replace("%", "%%")}
        if plain == (bool,):
            options["action"] = argparse.BooleanOptionalAction
        else:
            options |= {"type": _parsed(plain), "metavar": METAVARS[plain[0]]}
        parser.add_argument(flag, **options)
    return parser


def read_settings(kind: type, parser: Parser, arguments: list[str]):
    """The settings that a command line and its TOML file ask for.

    Raises:
        ValueError: for an unknown key, a wrong type or a missing field, in one line.
    """
    given = vars(parser.parse_args(arguments))
    file = given.pop("config", None)
    values = (_from_toml(kind, file) if file else {}) | given
    missing = [f.name for f in dataclasses.fields(kind) if _is_required(f) and f.name not in values]
    if missing:
        flags = ", ".join("--" + name.replace("_", "-") for name in missing)
        raise ValueError(f"missing: {flags} (see {parser.prog} --help)")
    return kind(**values)


def _from_toml(kind: type, file: str) -> dict:
    """The fields that a TOML file gives, checked one by one."""
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    try:
        found = tomllib.loads(Path(file).read_bytes().decode())
    except ValueError as error:  # broken TOML or no UTF-8
        raise ValueError(f"{file}: {error}") from None
    hints = typing.get_type_hints(kind)
    names = {field.name for field in dataclasses.fields(kind)}
    for key, value in found.items():
        if key not in names:
            raise ValueError(f"{file}: unknown key {key} = {value!r}")
        plain = _plain_types(hints[key])
        if float in plain and type(value) is int:
            found[key] = float(value)
        elif type(value) not in plain:
            raise ValueError(f"{file}: {key} must be {_spelled(plain)}, got {value!r}")
    return found


def _plain_types(hint) -> tuple[type, ...]:
    """The types of `float | None` without the None."""
    optional = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return tuple(t for t in (typing.get_args(hint) if optional else (hint,)) if t is not type(None))


def _parsed(plain: tuple[type, ...]) -> Callable[[str], object]:
    """Read a flag's text as the first of the types that it fits: int before float before str."""
    order = [kind for kind in (int, float, str) if kind in plain]

    def parse(text: str):
        for kind in order:
            try:
                return kind(text)
            except ValueError:
                continue
        raise argparse.ArgumentTypeError(f"must be {_spelled(plain)}, got {text!r}")

    return parse


def _spelled(plain: tuple[type, ...]) -> str:
    names = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    return " or ".join(names.get(kind, kind.__name__) for kind in plain)


def _comments(kind: type) -> dict[str, str]:
    """The comment beside each field, in the class and those it extends."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        try:
            source = inspect.getsource(base)
        except (OSError, TypeError):  # no source at hand: flags without help
            continue
        found |= dict(re.findall(r"^ +(\w+):[^#\n]*#\s*(.+)$", source, re.MULTILINE))
    return found


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is field.default_factory is dataclasses.MISSING


def _default(field: dataclasses.Field):
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory()

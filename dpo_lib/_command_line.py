"""How a command line is read: flags by cyclopts, TOML files of them, mistakes in one line.

Without torch. Flags come from a function's parameters or a dataclass's fields: their type, their
default, and the text below them, which is also what the book's reference prints.
"""

import difflib
import sys
import types
import typing
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

from cyclopts import App, CycloptsError, Group, Parameter, Token
from cyclopts.argument import Argument, ArgumentCollection
from cyclopts.exceptions import CoercionError, UnknownOptionError

SPELLED = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def section(title: str, place: int) -> Parameter:
    """A heading of a command's help, to annotate the flags below it with."""
    return Parameter(group=Group(title, sort_key=place))


RUNNING = section("Running", 9)
Config = Annotated[
    str | None, RUNNING, Parameter(help="TOML file of these settings; flags win over it.")
]
LISTED = Parameter(show_default=lambda values: " ".join(map(str, values)))  # 26 130, as typed


class Missing(CycloptsError):
    """Flags that a command needs and was not given; `arguments` are all that it has."""

    arguments: ArgumentCollection


def make_app(name: str, **options) -> App:
    """A cyclopts app by the rules of this module, to be run by `run`."""
    flags = Parameter(allow_repeating=True, negative_iterable=())  # of a repeated flag the last
    return App(
        name=name,
        version=lambda: metadata.version("dpo-lib"),
        config=[fill_in, check],
        default_parameter=flags,
        help_format="plaintext",
        result_action="return_value",
        suppress_keyboard_interrupt=False,
        **options,
    )


def run(app: App, arguments: Sequence[str] | None = None) -> int:
    """Run one command: its exit code, 2 for a mistake, 130 for an interrupt."""
    try:
        tokens = sys.argv[1:] if arguments is None else list(arguments)
        return app(tokens, exit_on_error=False, print_error=False) or 0
    except KeyboardInterrupt:
        print(f"{app.name[0]}: interrupted", file=sys.stderr)
        return 130
    except CycloptsError as error:
        command = " ".join([app.name[0], *(error.command_chain or ())])
        return mistake(app, f"{_first_of(error)} (see {command} --help)")
    except (ValueError, OSError) as error:
        return mistake(app, error)


def mistake(app: App, error: object) -> int:
    """Say in one line what is wrong."""
    print(f"{app.name[0]}:", " ".join(str(error).split()), file=sys.stderr)
    return 2


def _first_of(error: CycloptsError) -> CycloptsError:
    """What a person would correct first: a flag that is not known before one that is missing."""
    unknown = [token for token in error.unused_tokens or () if token.startswith("--")]
    if not (isinstance(error, Missing) and unknown):
        return error
    token = Token(keyword=unknown[0], source="cli")
    return UnknownOptionError(token=token, argument_collection=error.arguments, verbose=False)


# cyclopts calls these two between reading a command line and making values of it.


def fill_in(app: App, commands: Sequence[str], arguments: ArgumentCollection) -> None:
    """Give the flags that were not given the values of the file that --config names."""
    flags = {argument.name: argument for argument in arguments}
    config = flags.pop("--config", None)
    if config is None or not config.tokens:
        return
    file = config.tokens[0].value
    for key, value in read_toml(file).items():
        argument = flags.get("--" + key.replace("_", "-"))
        if argument is None:
            known = [flag[2:].replace("-", "_") for flag in flags]
            close = [f"; did you mean {name}?" for name in difflib.get_close_matches(key, known, 1)]
            raise ValueError(f"{file}: unknown key {key} = {value!r}{''.join(close)}")
        kinds = _plain_types(argument.hint)
        if type(value) not in kinds and not (float in kinds and type(value) is int):
            spelled = " or ".join(SPELLED[kind] for kind in kinds)
            raise ValueError(f"{file}: {key} must be {spelled}, got {value!r}")
        if not argument.tokens:
            argument.append(Token(keyword=key, value=str(value), source=file))


def check(app: App, commands: Sequence[str], arguments: ArgumentCollection) -> None:
    """Refuse a value that cannot be one; only then name all flags that are missing."""
    for argument in arguments:
        if argument.tokens:
            _check_whole(argument)
            argument.convert_and_validate()
    flags = (argument for argument in arguments if not argument.children)  # no dataclass
    missing = [flag.name for flag in flags if flag.required and not flag.tokens]
    if missing:
        error = Missing(msg=f"missing: {', '.join(missing)}")
        error.arguments = arguments
        raise error


def _check_whole(argument: Argument) -> None:
    """Raise for 3.5, which cyclopts would round to 4."""
    if int in _plain_types(argument.hint):
        for token in argument.tokens:
            try:
                int(token.value)
            except ValueError:
                raise CoercionError(argument=argument, token=token, target_type=int) from None


def read_toml(file: str) -> dict:
    """The keys and values of a TOML file.

    Raises:
        ValueError, OSError: it is not there or not TOML, with its name.
    """
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    try:
        return tomllib.loads(Path(file).read_bytes().decode())
    except ValueError as error:  # broken TOML or no UTF-8
        raise ValueError(f"{file}: {error}") from None


def _plain_types(hint) -> tuple[type, ...]:
    """The types of `float | None` or `tuple[int, int]`, without the None; text of a Literal."""
    if get_origin(hint) is Literal:
        return (str,)
    parts = get_args(hint) if get_origin(hint) in (typing.Union, types.UnionType, tuple) else [hint]
    return tuple(dict.fromkeys(kind for kind in parts if kind is not type(None)))

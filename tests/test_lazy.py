"""Short import paths: a room offers names of its modules, which are imported when asked for."""

import subprocess
import sys
from importlib import import_module

import pytest
from test_architecture import ORDER

from dpo_lib._lazy import exports

ROOMS = sorted({module[: module.rindex(".")] for module in ORDER if "." in module})


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_has_what_it_offers_and_a_module_has_not_the_same_name(name):
    room = import_module(f"dpo_lib.{name}")
    modules = {module.rpartition(".")[2] for module in ORDER if module.startswith(f"{name}.")}
    for offered in getattr(room, "__all__", []):
        assert hasattr(room, offered) and offered in dir(room)
        assert offered not in modules


def test_a_name_that_no_module_has_is_an_attribute_error_of_the_room():
    with pytest.raises(AttributeError, match="has no attribute 'x'"):
        import_module("dpo_lib.language_model.data").x  # noqa: B018


def test_a_name_that_is_also_a_module_is_refused():
    with pytest.raises(ValueError, match="a module and a name of another are both record"):
        exports("room", {"record": ["record"]})


def test_a_room_imports_none_of_its_modules_before_it_is_asked():
    rooms = [f"dpo_lib.{name}" for name in ROOMS if not name.startswith("statements")]
    code = f"import sys, {', '.join(rooms)}; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"

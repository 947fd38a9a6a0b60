"""The house as docs/architecture.md draws it: its rooms, and the one direction of imports."""

import ast
import re

import pytest
from conftest import ROOT

PLAN = (ROOT / "docs/architecture.md").read_text()


def drawn() -> list[str]:
    """Modules in the order of the plan, "losses" or "language_model.data.rows"."""
    tree, rooms, found = re.search(r"```\ndpo_lib/\n(.*?)```", PLAN, re.DOTALL)[1], [], []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        rooms = rooms[: depth - 1]
        names = re.split(r"\s{2,}", line.strip())[0].split()
        if names[0].endswith("/"):
            rooms.append(names[0][:-1])
        else:
            found += [".".join([*rooms, name]) for name in names]
    return found


def written() -> dict[str, str]:
    """Source of each module by name; a room's own file stands for the room."""
    paths = (ROOT / "dpo_lib").rglob("*.py")
    names = {p: ".".join(p.relative_to(ROOT / "dpo_lib").with_suffix("").parts) for p in paths}
    return {n: p.read_text() for p, n in names.items() if n.rpartition(".")[2] != "__init__"}


ORDER, SOURCES = drawn(), written()


def imports(source: str) -> set[str]:
    """Modules and names of dpo_lib that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("dpo_lib.") for name in found if name.startswith("dpo_lib.")}


def last_needed(name: str) -> int:
    """The place of what is imported: a module, a name in one, or a room with all that it has."""
    while name:
        inside = [n for n, m in enumerate(ORDER) if m == name or m.startswith(f"{name}.")]
        if inside:
            return max(inside)
        name = name.rpartition(".")[0]
    return -1  # dpo_lib itself, which imports nothing


def test_the_plan_draws_every_module_and_no_other():
    assert sorted(ORDER) == sorted(SOURCES)


def test_the_plan_fits_on_a_screen():
    assert len(PLAN.splitlines()) <= 70


@pytest.mark.parametrize("module", ORDER)
def test_no_import_runs_upwards(module):
    here = ORDER.index(module)
    assert [name for name in sorted(imports(SOURCES[module])) if last_needed(name) >= here] == []


def test_a_room_has_at_most_eight_files_and_a_file_two_hundred_and_fifty_lines():
    rooms: dict[str, list[str]] = {}
    for module in ORDER:
        rooms.setdefault(module.rpartition(".")[0], []).append(module)
    assert {room: len(files) for room, files in rooms.items() if room and len(files) > 8} == {}
    long = {m for m, text in SOURCES.items() if len(text.splitlines()) > 250}
    unexplained = {m for m in long if "One file" not in ast.get_docstring(ast.parse(SOURCES[m]))}
    assert unexplained == set(), "split it, or say in its docstring why it is `One file`"


def test_tests_stand_in_the_rooms_of_what_they_test():
    rooms = {m.rpartition(".")[0].replace(".", "/") for m in ORDER}
    assert {str(p.parent.relative_to(ROOT / "tests")).removeprefix(".") for p in
            (ROOT / "tests").rglob("test_*.py")} <= rooms  # fmt: skip


def test_no_six_lines_stand_twice_outside_the_tests():
    seen: dict[tuple[str, ...], str] = {}
    twice = []
    for folder in ("_ext", "benchmarks", "dpo_lib", "scripts"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            lines = [line.strip() for line in path.read_text().splitlines()]
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    lines[node.lineno - 1 : node.end_lineno] = [""] * (
                        node.end_lineno - node.lineno + 1
                    )
            kept = [(n, line) for n, line in enumerate(lines, 1) if line not in ("", ")", '"""')]
            for start in range(len(kept) - 5):
                block = tuple(line for _, line in kept[start : start + 6])
                place = f"{path.relative_to(ROOT)}:{kept[start][0]}"
                if place != seen.setdefault(block, place):
                    twice.append(f"{place} and {seen[block]}")
    assert twice == []

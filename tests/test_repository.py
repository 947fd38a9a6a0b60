"""What must hold for the files themselves, before anything runs."""

import ast
import importlib.util
import re
import subprocess
import sys

import nbformat
import pytest
import yaml
from conftest import NOTEBOOKS, ROOT
from test_architecture import ORDER, SOURCES, imports

import dpo_lib
from dpo_lib import losses

ADDRESS = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]
URL, BRANCH = ADDRESS["url"], ADDRESS["branch"]
GUARD = """import importlib.util

if importlib.util.find_spec("dpo_lib") is None:"""
ARCHIVE = f"{URL}/archive/refs/heads/{BRANCH}.zip"
INSTALLED = "  # Colab\n    %pip install -q "
MISSING = """
    raise ModuleNotFoundError(
        'dpo_lib is missing: run %pip install "PATH{}" with '
        "the path of the folder or zip file that this book came in."
    )"""
CHAPTERS = [path for path in NOTEBOOKS if re.match(r"\d\d_", path.name)]
FORM = [
    "## The question",
    "## See it small",
    "## The statement",
    "## The derivation",
    "## In code",
    "## The experiment",
    "## The slider",
    "## Where it breaks",
    "## Exercises",
    "## Summary",
]
HEAVY = {
    "sympy": {
        *(m for m in ORDER if m.startswith(("statements.symbolic.", "statements.proofs."))),
        *("statements.witness", "statements.trying"),
    },
    "matplotlib": {"page.panels", "page.plotting", "page.widgets"},
    "ipywidgets": {"page.widgets"},
}

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == kind]


def prose(path):
    return "\n\n".join(cell.source for cell in cells(path, "markdown"))


def thrown_away(source):
    """Lines of a cell with a figure that nobody sees: only a cell's last expression is shown."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a line for IPython, %pip
        return []
    shown = [node for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    figures = [
        n for n in shown if isinstance(n.value, ast.Call) and ast.unparse(n.value.func) == "show"
    ]
    return [figure.lineno for figure in figures if figure is not tree.body[-1]]


def test_a_figure_inside_an_if_is_thrown_away():
    assert thrown_away("if gpu:\n    show(fig, 'a')") == [2]
    assert thrown_away("show(fig, 'a')\nprint(1)") == [1]
    assert thrown_away("print(1)\nshow(fig, 'a')") == []


@each_notebook
def test_every_figure_is_the_last_line_of_its_cell(path):
    assert [cell.id for cell in cells(path, "code") if thrown_away(cell.source)] == []


@each_notebook
def test_a_notebook_is_committed_without_outputs(path):
    for cell in cells(path, "code"):
        assert (cell.outputs, cell.execution_count) == ([], None)


@each_notebook
def test_the_first_code_cell_installs_a_missing_library_or_says_how(path):
    first, *others = cells(path, "code")
    extra = "[language-model,lora]" * any(
        "dpo_lib.language_model" in cell.source for cell in others
    )
    archive = f'"dpo-lib{extra} @ {ARCHIVE}"' if extra else ARCHIVE
    assert first.source == GUARD + (INSTALLED + archive if URL else MISSING.format(extra))
    assert first.metadata.get("tags") == ["hide-input"]
    for cell in others:
        assert not re.search(r"^\s*[!%]", cell.source, re.MULTILINE), "shell or magic line"


@each_notebook
def test_a_code_cell_has_at_most_thirty_lines(path):
    assert [c.source for c in cells(path, "code") if len(c.source.splitlines()) > 30] == []


@each_notebook
def test_code_in_prose_has_lines_of_at_most_eighty_letters(path):
    blocks = re.findall(r"^```python\n(.*?)^```", prose(path), re.DOTALL | re.MULTILINE)
    assert [line for block in blocks for line in block.splitlines() if len(line) > 80] == []


@each_notebook
def test_prose_reads_the_same_in_the_book_and_on_colab(path):
    directives = (
        r"^(?:`{3,}|:{3,})\{|\{[\w:-]+\}`|^\([\w-]+\)=$|\\(?:label|(?:eq)?ref|newcommand)\b"
    )
    assert re.findall(directives, prose(path), re.MULTILINE) == []


@each_notebook
def test_a_numbered_equation_is_one_line(path):
    for equation in re.findall(r"\$\$(.*?)\$\$", prose(path), re.DOTALL):
        assert not (r"\tag" in equation and re.search(r"\\\\\s", equation)), equation


@pytest.mark.parametrize("path", CHAPTERS[1:], ids=lambda path: path.stem)
def test_a_chapter_keeps_the_form(path):
    headings = re.findall(r"^## .*", prose(path), re.MULTILINE)
    assert [heading for heading in headings if heading in FORM] == FORM


def test_nothing_in_the_library_imports_the_ledger_or_the_exercises():
    for outer in ("statements.ledger", "page.exercises"):
        others = [module for module in ORDER if not module.startswith(outer)]
        assert not [m for m in others if any(n.startswith(outer) for n in imports(SOURCES[m]))]


@pytest.mark.parametrize("package", HEAVY)
def test_a_heavy_package_is_imported_only_where_it_is_the_subject(package):
    line = rf"^(?:import|from) {package}\b"
    users = {module for module in ORDER if re.search(line, SOURCES[module], re.MULTILINE)}
    assert users <= HEAVY[package]


def test_importing_the_library_imports_nothing_heavy():
    heavy = {"torch", *HEAVY}
    code = f"import dpo_lib, sys; print({heavy} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def test_the_package_has_the_names_that_it_lists():
    assert set(dpo_lib.__all__) <= set(dir(dpo_lib))
    for name in dpo_lib.__all__:
        assert getattr(dpo_lib, name).__name__ == name
    assert dpo_lib.dpo_loss is losses.dpo_loss
    with pytest.raises(AttributeError, match="'dpo_lib' has no attribute 'dpo_los'"):
        dpo_lib.dpo_los  # noqa: B018


def test_every_public_module_is_in_the_reference():
    listed = re.findall(
        r"automodule:: dpo_lib\.([\w.]+)",
        "".join(page.read_text() for page in ROOT.glob("book/api*.md")),
    )
    rooms = {
        module[:dot] for module in ORDER for dot in (m.start() for m in re.finditer(r"\.", module))
    }
    names = [name for name in [*ORDER, *rooms] if not re.search(r"(^|\.)_", name)]
    assert sorted(listed) == sorted(n for n in names if not n.startswith("results"))


def test_the_first_line_of_a_property_has_no_colon_which_sphinx_takes_for_the_end_of_a_type():
    found = []
    for path in (ROOT / "dpo_lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and "property" in map(
                ast.unparse, node.decorator_list
            ):
                first = (ast.get_docstring(node) or "").partition("\n")[0]
                found += [f"{path.name}: {node.name}"] * bool(re.search(r":(\s|$)", first))
    assert found == []


def written_down():
    """Everything that people read: pages, documents, docstrings and comments."""
    for folder in (".", "docs", "book", "_ext", "benchmarks", "scripts", "dpo_lib"):
        for path in (ROOT / folder).glob("*" if folder in (".", "docs", "book") else "**/*.py"):
            if path.suffix in (".md", ".ipynb", ".py") and path.name != "CHANGELOG.md":
                yield path, path.read_text()


def test_modules_and_names_that_are_mentioned_exist():
    lost = []
    for path, text in written_down():
        for name in set(re.findall(r"(?<![\w./])dpo_lib(?:\.[A-Za-z_]\w*)+(?![\w/])", text)):
            module, *parts = name.split(".")
            found = importlib.import_module(module)
            for part in parts:
                module = f"{module}.{part}"
                if not hasattr(found, part) and importlib.util.find_spec(module) is None:
                    lost.append(f"{path.name}: {name}")
                    break
                found = getattr(found, part, None) or importlib.import_module(module)
    assert lost == []


def test_files_that_are_mentioned_exist():
    folders = "dpo_lib|tests|scripts|docs|book|benchmarks|_ext"
    named = rf"(?<![\w/])(?:{folders})/[\w/]+\.(?:py|md|ipynb|json)"
    missing = [
        f"{path.name}: {file}"
        for path, text in written_down()
        for file in set(re.findall(named, text))
        if not (ROOT / file).exists()
    ]
    assert missing == []


def test_tests_that_are_mentioned_exist():
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for path, text in written_down():
        for name in re.findall(r"\btest_\w+(?=`)", text):
            assert f"def {name}(" in tests, f"{path.name}: {name}"


def test_an_installed_library_has_the_files_that_are_no_modules():
    listed = subprocess.check_output(["git", "ls-files", "dpo_lib"], cwd=ROOT, text=True)
    others = {path for path in listed.splitlines() if not path.endswith(".py")}
    data = re.search(r"^package-data = \{ (.*) \}$", (ROOT / "pyproject.toml").read_text(), re.M)[1]
    globs = re.findall(r'"([\w.]+)" = \["([^"]+)"\]', data)
    shipped = {
        str(path.relative_to(ROOT))
        for package, pattern in globs
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    assert others <= shipped


def test_shipped_code_runs_no_code_from_files():
    forbidden = r"\bpickle\b|torch\.load|(?<![\w.])(?:eval|exec)\(|trust_remote_code|yaml\.load\("
    for folder in ("_ext", "benchmarks", "dpo_lib", "scripts"):
        for path in ROOT.glob(f"{folder}/**/*.py"):
            if path.name != "trying.py":  # it runs what its reader has typed, in their browser
                assert re.findall(forbidden, path.read_text()) == [], path.name
    for path in NOTEBOOKS:
        assert re.findall(forbidden, "\n".join(c.source for c in cells(path, "code"))) == []


def test_jupyter_book_two_is_never_installed():
    files = [ROOT / "requirements.txt", ROOT / "README.md", *ROOT.glob(".github/workflows/*.yml")]
    named = r"(?:pip install .*|^)(jupyter-book\S*)"
    found = [name for path in files for name in re.findall(named, path.read_text(), re.MULTILINE)]
    assert found and all(re.match(r"jupyter-book(?:==1\.|<2)", name) for name in found)


def test_the_readme_computes_what_it_says():
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    (*lines, call), names = code.splitlines(), {}
    exec("\n".join(lines), names)
    loss, said = call.rsplit(" = ", 1)  # within the comment
    assert round(eval(loss, names).item(), 3) == float(said)

"""What a cell needs of the cells before it: a slice by names, without what no browser can run.

A statement is kept if it binds a name that is needed, and then what it needs is needed too; what
a function needs is needed where it is called. A statement that imports something else than sympy
and its like, or needs what such a statement binds, cannot run in a page: a claim that depends on
one is cut out of its cell.
"""

import ast
import re

CLAIM = re.compile(r"\b(?:is_zero|differs_from_zero)\(")
RUNS = re.compile(
    r"(?:sympy|math|itertools|functools|fractions|collections|typing|dataclasses|operator"
    r"|dpo_lib\.statements(?!\.ledger))(?:\.|$)"
)
MAGIC = re.compile(r"(?m)^( *)[%!](?! ).*")  # a line for IPython, such as %pip
SCOPES = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Statement:
    """One statement at the top of a cell: its text, what it binds, needs, and needs when called."""

    def __init__(self, text: str, node: ast.stmt):
        self.text, self.node = text, node
        self.binds: set[str] = set()
        self.needs: set[str] = set()
        self.later: set[str] = set()
        self._read(node)

    def _read(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            self.binds |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                self.binds.add(node.id)
            elif node.id not in self.binds:
                self.needs.add(node.id)
        elif isinstance(node, ast.FunctionDef):
            self.later |= free(node) - self.binds
            self.binds.add(node.name)
        elif isinstance(node, SCOPES):
            self.needs |= free(node) - self.binds
        else:
            if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
                self.needs.add(node.target.id)
            for part in in_order(node):
                self._read(part)

    @property
    def claims(self) -> bool:
        return bool(CLAIM.search(self.text)) and not isinstance(self.node, ast.FunctionDef)

    @property
    def foreign(self) -> bool:
        """Whether it imports what no page has."""
        if isinstance(self.node, ast.Import):
            return not RUNS.match(self.node.names[0].name)
        if isinstance(self.node, ast.ImportFrom):
            return not RUNS.match(f"{self.node.module}.{self.node.names[0].name}")
        return False


def in_order(node: ast.AST) -> list[ast.AST]:
    """The parts of a statement as they are run: what is assigned before what it is assigned to."""
    if isinstance(node, ast.For):
        return [node.iter, node.target, *node.body, *node.orelse]
    parts = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        parts.sort(key=lambda part: isinstance(getattr(part, "ctx", None), ast.Store))
    return parts


def free(scope: ast.AST) -> set[str]:
    """Names that a function or a comprehension takes from outside."""
    names = [node for node in ast.walk(scope) if isinstance(node, ast.Name)]
    own = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    own |= {node.arg for node in ast.walk(scope) if isinstance(node, ast.arg)}
    own |= {node.name for node in ast.walk(scope) if isinstance(node, ast.FunctionDef)}
    return {node.id for node in names} - own


def statements(source: str) -> list[Statement]:
    """The statements of a cell, each with the comments since the one before, one import a name."""
    source = MAGIC.sub(r"\1pass", source)
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a whole cell for IPython, such as %%bash
        return []
    lines, found, done = source.splitlines(), [], 0
    for node in body:
        text = "\n".join(lines[done : node.end_lineno])
        done = node.end_lineno
        if isinstance(node, ast.Import | ast.ImportFrom):
            found += [alone(node, alias) for alias in node.names]
        else:
            found.append(Statement(text, node))
    return found


def alone(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> Statement:
    """The import of one name."""
    if isinstance(node, ast.Import):
        text = ast.unparse(ast.Import([alias]))
    else:
        text = ast.unparse(ast.ImportFrom(node.module, [alias], node.level))
    return Statement(text, ast.parse(text).body[0])


def foreign(known: list[Statement]) -> list[bool]:
    """Which statements no page can run: for their imports, or for what they need."""
    bad: set[str] = set()
    found = []
    for statement in known:
        is_bad = statement.foreign or bool(bad & (statement.needs | statement.later))
        bad = bad | statement.binds if is_bad else bad - statement.binds
        found.append(is_bad)
    return found


def needs(known: list[Statement]) -> list[set[str]]:
    """What each statement needs, with what the functions need that it may call."""
    called: dict[str, set[str]] = {}  # name -> what is needed wherever it is used
    found = []
    for statement in known:
        wanted, new = set(), set(statement.needs)
        while new:
            wanted |= new
            new = set().union(*(called.get(name, set()) for name in new)) - wanted
        found.append(wanted)
        for name in statement.binds:
            called[name] = statement.later
    return found


def feeding(known: list[Statement], wanting: list[int]) -> list[int]:
    """Places of the statements that these need, themselves included."""
    all_needs, wanted, kept = needs(known), set(), []
    for place in range(len(known) - 1, -1, -1):
        if place in wanting or known[place].binds & wanted:
            kept.append(place)
            wanted = (wanted - known[place].binds) | all_needs[place]
    return kept[::-1]


def cut(before: list[Statement], source: str) -> tuple[list[int], str] | None:
    """The set-up of a cell, as places, and what of it a page can run; None without a claim."""
    own = statements(source)
    known, first = [*before, *own], len(before)
    bad = foreign(known)
    places = [n for n in range(first, len(known)) if not bad[n]]
    claims = [n for n in places if known[n].claims]
    if not claims:
        return None
    whole = len(places) == len(own)
    chosen = feeding(known, places if whole else claims)
    text = "\n".join(known[n].text for n in chosen if n >= first)
    return [n for n in chosen if n < first], (source if whole else text).strip("\n")

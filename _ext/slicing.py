"""What a cell needs of the cells before it: a slice by names, without what no browser can run.

A statement is kept if it binds a name that is needed, and then what it needs is needed too. What
a function needs it needs when it is called, so of these names every binding is kept. A statement
that imports something else than sympy and its like, or needs what such a statement binds, cannot
run in a page; a claim that depends on one is cut out of its cell.
"""

import ast
import re

CLAIM = re.compile(r"\b(?:is_zero|differs_from_zero)\(")
RUNS = re.compile(
    r"(?:sympy|math|itertools|functools|fractions|collections|typing|dataclasses|operator"
    r"|dpo_lib\.statements(?!\.ledger))(?:\.|$)"
)


class Statement:
    """One statement at the top of a cell: its text, what it binds, needs, and needs when called."""

    def __init__(self, text: str, node: ast.stmt):
        self.text, self.node = text, node
        self.binds: set[str] = set()
        self.needs: set[str] = set()
        self.later: set[str] = set()
        self.imports = isinstance(node, ast.Import | ast.ImportFrom)
        self._read(node, called=False)

    def _read(self, node: ast.AST, called: bool) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            self.binds |= {a.asname or a.name.partition(".")[0] for a in node.names}
        elif isinstance(node, ast.Name):
            stored = not isinstance(node.ctx, ast.Load)
            (self.binds if stored else self.later if called else self.needs).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.Lambda):
            self._read_function(node)
        else:
            if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
                self.needs.add(node.target.id)
            for child in ast.iter_child_nodes(node):
                self._read(child, called)
            if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
                self.binds |= {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}

    def _read_function(self, node: ast.FunctionDef | ast.Lambda) -> None:
        inside = Statement.__new__(Statement)
        inside.binds, inside.needs, inside.later = set(), set(), set()
        for child in node.body if isinstance(node.body, list) else [node.body]:
            inside._read(child, called=True)
        arguments = [n.arg for n in ast.walk(node.args) if isinstance(n, ast.arg)]
        self.later |= (inside.needs | inside.later) - inside.binds - set(arguments)
        if isinstance(node, ast.FunctionDef):
            self.binds.add(node.name)
            for part in (*node.decorator_list, node.args):
                self._read(part, called=False)

    @property
    def claims(self) -> bool:
        return bool(CLAIM.search(self.text)) and not isinstance(self.node, ast.FunctionDef)

    @property
    def foreign(self) -> bool:
        """Whether it imports what no page has."""
        if isinstance(self.node, ast.Import):
            return not all(RUNS.match(alias.name) for alias in self.node.names)
        names = isinstance(self.node, ast.ImportFrom) and (
            f"{self.node.module}.{self.node.names[0].name}"
        )
        return bool(names) and not RUNS.match(names)


def statements(source: str) -> list[Statement]:
    """The statements of a cell with the comments before and behind them, an import for each name.

    Lines between two statements belong to the one that follows, so that nothing is lost.
    """
    lines, found, done = source.splitlines(), [], 0
    for node in ast.parse(source).body:
        text = "\n".join(lines[done : node.end_lineno])
        done = node.end_lineno
        if isinstance(node, ast.Import | ast.ImportFrom):
            found += [alone(node, alias) for alias in node.names]
        else:
            found.append(Statement(text, node))
    return found


def alone(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> Statement:
    """The import of one name."""
    text = ast.unparse(
        ast.Import([alias])
        if isinstance(node, ast.Import)
        else ast.ImportFrom(node.module, [alias], node.level)
    )
    return Statement(text, ast.parse(text).body[0])


def foreign(known: list[Statement]) -> list[bool]:
    """Which statements no page can run: of their imports, or of what they need."""
    bad: set[str] = set()
    found = []
    for statement in known:
        is_bad = statement.foreign or bool(bad & (statement.needs | statement.later))
        bad = bad | statement.binds if is_bad else bad - statement.binds
        found.append(is_bad)
    return found


def needed(before: list[Statement], cell: list[Statement]) -> list[int]:
    """Places of the statements that these of a cell need."""
    later = set().union(*(s.later for s in cell))
    while True:
        kept, wanted, seen = [], set(), set(later)
        for statement in reversed(cell):
            wanted = (wanted - statement.binds) | statement.needs
        for place in range(len(before) - 1, -1, -1):
            statement = before[place]
            if statement.binds & (wanted | seen):
                kept.append(place)
                wanted = (wanted - statement.binds) | statement.needs
                later |= statement.later
        if later == seen:
            return kept[::-1]


def cut(before: list[Statement], source: str) -> tuple[list[int], str] | None:
    """The set-up of a cell, as places, and what of the cell a page can run; None without a claim."""
    cell = statements(source)
    bad = foreign([*before, *cell])[len(before) :]
    kept = [statement for statement, is_bad in zip(cell, bad, strict=True) if not is_bad]
    if not any(statement.claims for statement in kept):
        return None
    if any(bad):
        feeding = needed(kept, [s for s in kept if s.claims])
        kept = [s for n, s in enumerate(kept) if n in feeding or s.claims]
    text = "\n".join(statement.text for statement in kept).strip("\n")
    return needed(before, kept), text if any(bad) else source.strip("\n")

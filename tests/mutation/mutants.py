"""All small faults of a source file."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
Edit = Callable[[ast.AST], None]


@dataclass(frozen=True)
class Mutant:
    """A file with one fault.

    Args:
        path: of the file, from the root.
        line: where the fault is.
        before, after: the smallest expression or statement around it.
        within: the first line of the statement that holds it.
        source: the whole file with it.
    """

    path: str
    line: int
    before: str
    after: str
    within: str
    source: str


def mutants(path: str, source: str) -> list[Mutant]:
    """Every fault we know to make, in the order of the file."""
    tree = ast.parse(source)
    found = []
    for index, (node, within) in enumerate(_live(tree)):
        for edit in _edits(node):
            other = copy.deepcopy(tree)
            changed = list(_live(other))[index][0]
            edit(changed)
            before, after = ast.unparse(node), ast.unparse(changed)
            if before != after:
                line = getattr(node, "lineno", 0)
                found.append(Mutant(path, line, _short(before), _short(after), within, ast.unparse(other)))
    return found


def _live(tree: ast.AST, within: str = "") -> Iterator[tuple[ast.AST, str]]:
    """Nodes whose change a test could see: no annotations, docstrings, assertions, or texts of errors.

    Each comes with the first line of its statement.
    """
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "type_comment") or isinstance(tree, (ast.Assert, ast.JoinedStr)):
            continue
        if name == "exc":  # a fault in the words of an error
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or (
                isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            ):
                continue
            if isinstance(child, (ast.Import, ast.ImportFrom)) or _names_all(child) or _is_repr(child):
                continue
            inside = ast.unparse(child).splitlines()[0] if isinstance(child, ast.stmt) else within
            yield child, inside
            yield from _live(child, inside)


def _names_all(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and any(
        isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets
    )


def _is_repr(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name in ("extra_repr", "__str__")


def _edits(node: ast.AST) -> Iterator[Edit]:
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        yield lambda n: n.ops.__setitem__(0, COMPARISONS[type(n.ops[0])]())
    elif isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in OPERATORS:
        yield lambda n: setattr(n, "op", OPERATORS[type(n.op)]())
    elif isinstance(node, ast.BoolOp):
        yield lambda n: setattr(n, "op", ast.And() if isinstance(n.op, ast.Or) else ast.Or())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub, ast.Invert)):
        yield _replace_operand
    elif isinstance(node, ast.Constant):
        yield from _constants(node)
    elif isinstance(node, (ast.If, ast.IfExp, ast.While)) and not isinstance(
        node.test, (ast.Compare, ast.UnaryOp)
    ):
        yield lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test))
    elif isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        yield _do_nothing
    elif isinstance(node, ast.FunctionDef) and node.decorator_list:
        yield lambda n: n.decorator_list.clear()


def _constants(node: ast.Constant) -> Iterator[Edit]:
    value = node.value
    if isinstance(value, bool):
        yield lambda n: setattr(n, "value", not n.value)
    elif isinstance(value, (int, float)):
        yield lambda n: setattr(n, "value", n.value + 1)
    elif isinstance(value, str) and value:
        yield lambda n: setattr(n, "value", n.value + "X")


def _replace_operand(node: ast.AST) -> None:
    assert isinstance(node, ast.UnaryOp)
    # Twice the same sign, because the node itself must stay where it is.
    node.operand = ast.UnaryOp(node.op, node.operand)


def _do_nothing(node: ast.AST) -> None:
    nothing = ast.Expr(ast.Constant(None))
    node.__class__ = ast.Expr  # pyright: ignore
    node.__dict__.update(vars(nothing))


def _short(text: str) -> str:
    return text if len(text) < 160 else text[:157] + "..."

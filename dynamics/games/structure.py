"""Structure of programs: depth of the syntax tree, cyclomatic number, lines, and the skeleton that equal structures share.

Programs are Python functions, Python expressions, or chains such as ``x+3;max(x,12)``, the laboratory's, in which x is what the expression
before gave. A chain is measured as the one expression that it is: ``max(x+3,12)``. Nothing is executed.

PopuLoRA (arXiv 2605.16727) follows the first three over training, by notes on its text, and reports that a single agent's proposals lose
them. Deeper is not harder: a solver can find a deep program easy, and padding (``x+0+0+0``) is deep.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from dataclasses import dataclass

from dynamics.syntax import NotParsed, syntax_tree

#: levels of a syntax tree that are followed
LEVELS = 200
#: nodes of an expression that a chain is written as: where x occurs twice in every link, it doubles with each
NODES = 5_000
#: each of these is a further path through a program
_BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler)


@dataclass(frozen=True)
class Structure:
    """The structure of a program.

    Attributes
    ----------
    depth : levels of the syntax tree below the statement or expression itself, which is 1: ``x`` has 1, ``x+3`` has 2. Operators, contexts
        and argument lists are not counted as levels.
    cyclomatic : 1 + if, elif, conditional expressions, loops, except, cases that can fail, further operands of ``and`` and ``or``, and the
        loops and conditions of comprehensions. radon also counts assert and lambda.
    lines : lines that hold code, as written.
    skeleton : digest that two programs share if they differ in names, constants, annotations and docstrings only, at one version of Python.
    """

    depth: int
    cyclomatic: int
    lines: int
    skeleton: str


def measure(program: str) -> Structure | None:
    """Measure a program; None if it is no Python or is nested too deeply.

    Parameters
    ----------
    program : a function, an expression over x, or a chain of such expressions separated by semicolons.
    """
    try:
        tree = _tree(program)
    except NotParsed:
        return None
    return Structure(_depth(tree) - 1, _cyclomatic(tree), _lines(program), _skeleton(tree))


def _tree(program: str) -> ast.Module:
    tree = syntax_tree(program.strip(), LEVELS)
    parts = [statement.value for statement in tree.body if isinstance(statement, ast.Expr)]
    if len(parts) != len(tree.body) or not parts:
        return tree
    if len(parts) == 1:
        return ast.Module([parts[0]], [])  # type: ignore[list-item]
    chained = parts[0]
    for part in parts[1:]:
        places = sum(isinstance(node, ast.Name) and node.id == "x" for node in ast.walk(part))
        if places * sum(1 for _ in ast.walk(chained)) > NODES or _depth(chained) + _depth(part) > LEVELS:
            raise NotParsed("too large")
        chained = _Substitution(chained).visit(part)
    return ast.Module([chained], [])  # type: ignore[list-item]


class _Substitution(ast.NodeTransformer):
    """Put an expression in the place of x."""

    def __init__(self, expression: ast.expr):
        self.expression = expression

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Replace x."""
        return copy.deepcopy(self.expression) if node.id == "x" else node


def _depth(tree: ast.AST) -> int:
    level, depth = [tree], 0
    while level:
        depth += 1
        level = [below for node in level for below in _below(node)]
    return depth


def _below(node: ast.AST) -> list[ast.AST]:
    """Return statements and expressions directly below a node, through argument lists and comprehension clauses."""
    found: list[ast.AST] = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.stmt, ast.expr, ast.excepthandler, ast.match_case)):
            found.append(child)
        elif not isinstance(child, (ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context)):
            found += _below(child)
    return found


def _cyclomatic(tree: ast.AST) -> int:
    number = 1
    for node in ast.walk(tree):
        if isinstance(node, _BRANCHES):
            number += 1
        elif isinstance(node, ast.BoolOp):
            number += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            number += 1 + len(node.ifs)
        elif isinstance(node, ast.match_case):
            always = isinstance(node.pattern, ast.MatchAs) and node.pattern.pattern is None and node.guard is None
            number += not always
    return number


def _lines(program: str) -> int:
    return sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in program.splitlines())


def _skeleton(tree: ast.Module) -> str:
    """Digest the tree without names that it binds, constants, annotations and docstrings; names that it does not bind are operations."""
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    bound |= {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    plain = ast.dump(_Normalised(bound | {"x"}).visit(tree), annotate_fields=False)
    return hashlib.sha256(plain.encode()).hexdigest()[:32]


class _Normalised(ast.NodeTransformer):
    """Rename bound names by order of appearance, and write constants by their type."""

    def __init__(self, bound: set[str]):
        self.bound = bound
        self.names: dict[str, str] = {}

    def name(self, name: str) -> str:
        return self.names.setdefault(name, f"n{len(self.names)}") if name in self.bound else name

    def visit_Name(self, node: ast.Name) -> ast.Name:
        """Rename it."""
        return ast.Name(self.name(node.id), node.ctx)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        """Rename it and drop its annotation."""
        return ast.arg(self.name(node.arg))

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        """Write its type; the sign of a number is an operation."""
        return ast.Constant(type(node.value).__name__)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Rename it; drop its docstring and annotation."""
        body = node.body
        if len(body) > 1 and ast.get_docstring(node, clean=False) is not None:
            body = body[1:]
        plain = ast.FunctionDef(
            name=self.name(node.name), args=node.args, body=body, decorator_list=node.decorator_list, returns=None, type_comment=None
        )
        return self.generic_visit(plain)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Drop the annotation of an assignment; a mere declaration says nothing."""
        plain = ast.Assign([node.target], node.value, None) if node.value is not None else ast.Pass()
        return self.generic_visit(plain)

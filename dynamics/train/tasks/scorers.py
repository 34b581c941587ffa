"""The confined side of the judges: scorers of other packages, which must not execute the text that they score.

``dynamics.train.tasks.judges`` has this file run as a script in the sandbox. It uses only the standard library and the package of the
scorer, which is imported after the process gave up its rights.

Some scorers call ``eval`` on an answer, or SymPy's ``parse_expr``, which does. Code in an answer would run in the process that decides on
its score, and could forge it. Before a scorer sees an answer, ``eval`` is therefore replaced in its modules by ``literal_value``, and SymPy
evaluates only expressions of numbers, symbols and the mathematical functions in ``FUNCTIONS``. What is refused is an error to the
scorer, as other text that it cannot read.
"""

from __future__ import annotations

import ast
import importlib
import importlib.machinery
import importlib.util
import inspect
import logging
import operator
import pickle
import resource
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

#: functions of integers whose values grow fast
_GROWING = (
    "gamma lowergamma uppergamma loggamma digamma polygamma beta zeta polylog factorial factorial2 subfactorial binomial rf ff fibonacci "
    "lucas bernoulli euler catalan harmonic"
)
#: other functions of SymPy, and of numbers in Python, that an answer may call
_FUNCTIONS = (
    "Add Mul Pow Integer Rational Float Symbol Function Eq Ne Lt Le Gt Ge And Or Not "
    "abs round pow max min Abs Max Min Mod sign floor ceiling frac re im conjugate arg gcd lcm igcd ilcm "
    "sqrt cbrt root real_root exp log ln LambertW sin cos tan cot sec csc sinc asin acos atan acot asec acsc atan2 "
    "sinh cosh tanh coth sech csch asinh acosh atanh acoth asech acsch erf erfc erfi erf2 erfinv erfcinv "
    "Si Ci Shi Chi Ei E1 li Li expint fresnels fresnelc besselj bessely besseli besselk Heaviside DiracDelta Piecewise "
    "S sympify expand factor simplify"
)
#: those of them that take seconds for an argument of some thousands
_SLOW = {"zeta", "harmonic", "bernoulli", "euler", "polygamma", "polylog"}
FUNCTIONS = {*_GROWING.split(), *_FUNCTIONS.split()}
#: constants of SymPy
_CONSTANTS = {"pi", "E", "I", "oo", "zoo", "nan", "EulerGamma", "GoldenRatio", "Catalan"}
_NAMES = FUNCTIONS | _CONSTANTS
#: largest size of an integer argument of these functions
_MAX_ARGUMENT, _MAX_SLOW_ARGUMENT = 10_000, 1000
#: largest size of an integer in bits, of a text or a list in elements, and of the exponent of a decimal number
_MAX_BITS, _MAX_LENGTH, _MAX_EXPONENT = 1 << 20, 1 << 16, 10_000
#: an answer that takes more memory than this is judged in a process of its own, in bytes
_MAX_GROWTH = 64 << 20

#: reasons of refusals
CODE, SIZE, NAN = "the answer holds code", "the answer is too large to evaluate", "the answer is not a number"


class Refused(ValueError):
    """A part of an answer is not evaluated. Scorers take this for an answer that they cannot read."""


class Ended(BaseException):
    """The same for scorers that would try something else for seconds."""


#: what ``refuse`` makes of a part that is too large
_too_large: type[BaseException] = Refused
#: the reasons for which parts of the current answer were refused
_reasons: list[str] = []


def refuse(reason: str) -> BaseException:
    """Build the exception for a refusal and remember its reason: scorers catch the exceptions of ``eval``."""
    _reasons.append(reason)
    return _too_large(reason) if reason == SIZE else Refused(reason)


# values of Python: what scorers pass to eval


def literal_value(source: Any, *_: Any) -> Any:
    """Evaluate literals and arithmetic on them, in place of ``eval``.

    Parameters
    ----------
    source : text.

    Returns
    -------
    Any
        Numbers, text, lists, tuples, sets and dictionaries.
    """
    if not isinstance(source, str):
        raise refuse(CODE)
    if len(source) > _MAX_LENGTH:
        raise refuse(SIZE)
    return _value(ast.parse(source.lstrip(" \t"), mode="eval").body)


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.List():
            return [_value(element) for element in node.elts]
        case ast.Tuple():
            return tuple(_value(element) for element in node.elts)
        case ast.Set():
            return {_value(element) for element in node.elts}
        case ast.Dict() if None not in node.keys:
            return {_value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True) if key is not None}
        case ast.UnaryOp() if type(node.op) in _UNARY:
            return _UNARY[type(node.op)](_value(node.operand))
        case ast.BinOp() if type(node.op) in _BINARY:
            return _bounded(_BINARY[type(node.op)], _value(node.left), _value(node.right))
        case ast.Name():
            raise NameError("a name")
    raise refuse(CODE)


_UNARY: dict[type, Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Invert: operator.invert,
    ast.Not: operator.not_,
}
_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
}


def _bounded(function: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    """Apply an operator of Python, unless the result may be large."""
    if function is operator.mod and not isinstance(left, (int, float)):
        raise refuse(CODE)  # formatting of text
    size = 0
    if isinstance(left, int) and isinstance(right, int):
        if function is operator.pow:
            size = left.bit_length() * abs(right)
        elif function is operator.lshift:
            size = left.bit_length() + max(right, 0)
        elif function is operator.mul:
            size = left.bit_length() + right.bit_length()
    elif function is operator.mul:
        lengths = [len(value) if isinstance(value, (str, bytes, list, tuple)) else value for value in (left, right)]
        size = abs(lengths[0] * lengths[1]) * (_MAX_BITS // _MAX_LENGTH) if all(isinstance(value, int) for value in lengths) else 0
    elif function is operator.add and isinstance(left, (str, bytes, list, tuple)) and isinstance(right, type(left)):
        size = (len(left) + len(right)) * (_MAX_BITS // _MAX_LENGTH)
    if size > _MAX_BITS:
        raise refuse(SIZE)
    return function(left, right)


def replace_eval(package: str) -> None:
    """Replace ``eval`` and ``exec`` in the loaded modules of a package."""

    def no_exec(*_: Any) -> None:
        raise refuse(CODE)

    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == package and module is not None:
            for function, replacement in (("eval", literal_value), ("exec", no_exec)):
                if function not in vars(module):
                    setattr(module, function, replacement)


# SymPy

_NODES = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Call, ast.Name, ast.Constant, ast.Tuple, ast.Load),
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.BitAnd, ast.BitOr, ast.BitXor),
    *(ast.UAdd, ast.USub, ast.Invert, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE),
)


def check_expression(code: str, known: Any) -> None:
    """Refuse an expression of Python that SymPy wrote from an answer if it does more than mathematics.

    Parameters
    ----------
    code : the expression, with ``Integer (2 )`` for 2, and ``Symbol ('x')`` for an unknown name.
    known : further names that it may use.
    """
    if len(code) > _MAX_LENGTH:
        raise refuse(SIZE)
    texts: set[ast.AST] = set()  # constants that may be text, and names of functions, as seen before those inside a call
    functions: set[ast.AST] = set()
    tree = ast.parse(code.lstrip(" \t"), mode="eval")
    if isinstance(tree.body, ast.Constant) and isinstance(tree.body.value, str):
        return  # an answer in quotes, which SymPy may parse in turn
    for node in ast.walk(tree):
        if isinstance(node, (ast.List, ast.Set, ast.Dict)):
            raise TypeError("not mathematics")
        if not isinstance(node, _NODES):
            raise refuse(CODE)
        if isinstance(node, ast.Call):
            _check_call(node, known, texts)
            functions.add(node.func)
        elif isinstance(node, ast.Constant):
            if not isinstance(node.value, (bool, int, float, complex)) and node not in texts:
                raise TypeError("not mathematics")
        elif isinstance(node, ast.Name) and node not in functions and node.id not in _NAMES and node.id not in known:
            raise NameError("a name")  # a word of the answer that is the name of something else in SymPy


def _check_call(node: ast.Call, known: Any, texts: set[ast.AST]) -> None:
    """Check the function of a call; collect its arguments if they may be text."""
    if node.keywords:
        raise refuse(CODE)
    function = node.func
    if isinstance(function, ast.Call):  # Function('f')(x)
        if not (isinstance(function.func, ast.Name) and function.func.id == "Function"):
            raise TypeError("not a function")  # as Python says of (3)(4)
        return
    if not isinstance(function, ast.Name) or (function.id not in FUNCTIONS and function.id not in known):
        raise refuse(CODE)
    if len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and isinstance(text := node.args[0].value, str):
        if function.id in ("Symbol", "Function") and text.isidentifier():
            texts.add(node.args[0])
        elif function.id == "Float":
            exponent = text.lower().replace("_", "").partition("e")[2]
            if len(exponent) > 6 or abs(int(exponent or "0")) > _MAX_EXPONENT:
                raise refuse(SIZE)
            texts.add(node.args[0])


def _small(function: Any, most: int) -> Any:
    """Let a function refuse integers of SymPy that are larger than ``most``."""

    def bounded(*arguments: Any) -> Any:
        if any(getattr(argument, "is_Integer", False) and abs(argument.p) > most for argument in arguments):
            raise refuse(SIZE)
        return function(*arguments)

    return bounded


def guard_sympy() -> None:
    """Let SymPy evaluate text only if ``check_expression`` accepts it, and refuse powers that are too large."""
    import sympy
    from sympy.core import numbers
    from sympy.parsing import sympy_parser

    names = {name: getattr(sympy, name) for name in _NAMES if hasattr(sympy, name)}
    names |= {"abs": abs, "round": round, "pow": pow, "max": sympy.Max, "min": sympy.Min}
    for name in _GROWING.split():
        kind: Any = names.get(name)
        most = _MAX_SLOW_ARGUMENT if name in _SLOW else _MAX_ARGUMENT
        if "eval" in getattr(kind, "__dict__", ()):
            kind.eval = classmethod(_small(vars(kind)["eval"].__func__, most))  # also evaluates what LaTeX left unevaluated
        elif kind is not None:
            names[name] = _small(kind, most)
    names["__builtins__"] = {}
    transform = sympy_parser.evaluateFalse

    def evaluate(code: str | types.CodeType, local_dict: dict[Any, Any], global_dict: dict[str, Any]) -> Any:
        del global_dict  # holds the functions of Python
        if isinstance(code, str):
            check_expression(code, local_dict)
        return eval(code, names, local_dict)  # code that is compiled already was checked by unevaluated

    def unevaluated(code: str) -> Any:
        check_expression(code, ())
        return transform(code)

    sympy_parser.eval_expr, sympy_parser.evaluateFalse = evaluate, unevaluated
    _keep_names(sympy_parser)
    for kind in (numbers.Integer, numbers.Rational):
        kind._eval_power = _bounded_power(kind._eval_power, numbers)


def _keep_names(sympy_parser: Any) -> None:
    """Let ``parse_expr`` use one dictionary of SymPy's names; it builds an equal one in each call, which takes longer than parsing."""
    built: list[dict[str, Any]] = []
    evaluate = sympy_parser.eval_expr

    def keep(code: Any, local_dict: dict[Any, Any], global_dict: dict[str, Any]) -> Any:
        built.append(global_dict)
        return evaluate(code, local_dict, global_dict)

    sympy_parser.eval_expr = keep
    sympy_parser.parse_expr("1")
    sympy_parser.eval_expr = evaluate
    parse = sympy_parser.parse_expr
    names = list(inspect.signature(parse).parameters)
    defaults = list(parse.__defaults__)
    defaults[names.index("global_dict") - len(names)] = built[0]
    parse.__defaults__ = tuple(defaults)


def _bounded_power(power: Callable[[Any, Any], Any], numbers: types.ModuleType) -> Callable[[Any, Any], Any]:
    def bounded(base: Any, exponent: Any) -> Any:
        if isinstance(exponent, numbers.Rational):
            bits = max(abs(base.p).bit_length(), base.q.bit_length())
            if bits > 1 and bits * abs(exponent.p) > _MAX_BITS * exponent.q:
                raise refuse(SIZE)
        return power(base, exponent)

    return bounded


# reasoning-gym

#: tasks whose scorers compare numbers in such a way that nan equals every number
_NAN_IS_RIGHT = ("complex_arithmetic", "number_sorting")


class _NoDrawing:
    """An importer of empty packages for drawing, which some tasks import and no scorer uses; the real ones write files when imported."""

    packages = ("matplotlib", "mpl_toolkits")

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        """Find the packages and their modules."""
        del path, target
        return importlib.util.spec_from_loader(name, self, is_package=True) if name.partition(".")[0] in self.packages else None  # type: ignore[arg-type]

    def create_module(self, spec: object) -> None:
        """Leave making the module to Python."""

    def exec_module(self, module: Any) -> None:
        """Let the module have all names."""

        def attribute(name: str) -> type:
            if name.startswith("__"):
                raise AttributeError(name)
            return object

        module.__getattr__ = attribute


def _import_task(module: str) -> Any:
    """Import the module of a task without the other tasks, which take time and memory; return the factory of its datasets.

    The packages above the module are empty stand-ins; if the module needs more of them, the whole package is imported.
    """
    if not any(isinstance(finder, _NoDrawing) for finder in sys.meta_path):
        sys.meta_path.insert(0, _NoDrawing())
    if module not in sys.modules:
        if "reasoning_gym" not in sys.modules:
            _stand_in("reasoning_gym", importlib.util.find_spec("reasoning_gym"))
        category = module.rpartition(".")[0]
        if category.count(".") == 1 and category not in sys.modules:
            _stand_in(category, importlib.util.find_spec(category))
        try:
            importlib.import_module(module)
        except (ImportError, AttributeError) as error:
            if isinstance(error, ImportError) and error.name == module:
                raise
            for name in [name for name in sys.modules if name.partition(".")[0] == "reasoning_gym"]:
                del sys.modules[name]
            importlib.import_module("reasoning_gym")
        if "sympy" in sys.modules:
            _guard_once()
    return importlib.import_module("reasoning_gym.factory")


def _stand_in(name: str, spec: importlib.machinery.ModuleSpec | None) -> None:
    """Add an empty package under the name of a real one, so that its modules can be imported."""
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"{name} is not installed")
    package = types.ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules[name] = package


_guarded: list[bool] = []


def _guard_once() -> None:
    if not _guarded:
        guard_sympy()
        _guarded.append(True)


def _reasoning_gym(config: dict[str, Any]) -> Callable[[str, Any], float]:
    """Return the scorer of a task. It scores answers first, so that what scorers import and compute once is ready."""
    dataset = _import_task(config["module"]).create_dataset(config["name"], size=1, seed=0, **config["settings"])

    def score(answer: str, entry: Any) -> float:
        if config["name"] in _NAN_IS_RIGHT and "nan" in answer.lower():
            raise refuse(NAN)
        return dataset.score_answer(answer, entry)

    replace_eval("reasoning_gym")
    for item, answer in config["correct"]:
        for text in (answer, "1", "x + 1"):
            _graded(score, text, pickle.loads(item))
    replace_eval("reasoning_gym")  # in modules that were imported by that
    return score


# math-verify

#: correct answers, and wrong ones, that are compared once in advance, for what the packages import and compute at the first time
_WARM = (
    *("1/2", "2.5", "-3", "50%", "1,2,3", r"$\frac{\sqrt{3}}{2}$", r"$-\frac{5}{7}$", "$x^2+2x+1$", r"$\frac{a+b}{c-d}$", "$x<2$", "$x=3$"),
    *(r"$\{1,2\}$", r"$(0,\infty)$", r"$\left[0,1\right)$", r"$x\in[1,2]$", r"\boxed{\sin(\pi/3)+2^{10}}", r"$3\cdot 10^5$", r"$\log_2 8$"),
    *(r"$1+2i$", "$10!$", r"$45^\circ$", "$f(x)=x^2$", r"$\begin{pmatrix}1&2\\3&4\end{pmatrix}$", r"$\text{yes}$", r"$e^{2x}$"),
)
_WRONG = ("7", r"$\sqrt{2}+1$", "$x+1$")


def _math_verify(config: dict[str, Any]) -> Callable[[str, Any], float]:
    """Return a function that compares an answer with the correct one as mathematics."""
    global _too_large
    del config
    import math_verify

    logging.disable(logging.CRITICAL)  # it warns of disabled time limits: the sandbox ends what takes too long

    def score(answer: str, gold: str) -> float:
        correct, given = math_verify.parse(gold, parsing_timeout=None), math_verify.parse(answer, parsing_timeout=None)
        equal = bool(math_verify.verify(correct, given, timeout_seconds=None))
        if equal:  # by a part of the text that was evaluated; math-verify goes on from what it cannot read
            _reasons[:] = [reason for reason in _reasons if reason != CODE]
        return float(equal)

    _guard_once()
    _too_large = Ended
    for gold in _WARM:
        for answer in (gold, *_WRONG):
            score(answer, gold)
    return score


# what the sandbox calls

_LIBRARIES = {"reasoning_gym": _reasoning_gym, "math_verify": _math_verify}
_scorers: dict[str, Callable[[str, Any], float]] = {}


def prepare(key: str, config: dict[str, Any]) -> str:
    """Import a package and make a scorer, before any answer is seen.

    Parameters
    ----------
    key : name of the scorer in requests.
    config : ``library``; ``correct``, pairs of a pickled question and a correct answer; and what the function of the package takes.

    Returns
    -------
    str
        The version of Python.
    """
    _scorers[key] = _LIBRARIES[config["library"]](config)
    _reasons.clear()
    return sys.version.partition(" ")[0]


def judge(request: Sequence[tuple[str, bytes, str]]) -> list[dict[str, Any]]:
    """Score answers.

    Parameters
    ----------
    request : the key of the scorer, the pickled question in the form of the scorer, and the answer, for each.

    Returns
    -------
    list of dict
        ``score`` and ``refused``, the reason why a part of the answer was not evaluated or an empty text; or ``failure``, the exception
        of the scorer.

    Raises
    ------
    MemoryError : an answer took much memory; each should be judged in a process of its own.
    """
    begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    verdicts = [_graded(_scorers[key], answer, pickle.loads(item)) for key, item, answer in request]
    if len(request) > 1 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begin > _MAX_GROWTH >> 10:
        raise MemoryError
    return verdicts


def _graded(scorer: Callable[[str, Any], float], answer: str, item: Any) -> dict[str, Any]:
    _reasons.clear()
    try:
        score = float(scorer(answer, item))
    except MemoryError:
        raise
    except (Refused, Ended):
        score = 0.0
    except BaseException as error:
        return {"failure": type(error).__name__}
    return {"score": repr(score), "refused": CODE if CODE in _reasons else next(iter(_reasons), "")}

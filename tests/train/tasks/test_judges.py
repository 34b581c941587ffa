"""Scorers of other packages: answers that hold code, that raise, that never end; and that honest answers get the scores of the package."""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from dynamics import InputError
from dynamics.train import tasks
from dynamics.train.sandbox.judge import Reply
from dynamics.train.tasks import scorers
from dynamics.train.tasks.judges import LibraryScorer, ScoredAnswer, failure_metrics, judge_all
from dynamics.train.tasks.problem import Question, Verdict

if find_spec("reasoning_gym") is None:  # importing it takes seconds
    pytest.skip("reasoning-gym is not installed", allow_module_level=True)
#: tasks whose scorers evaluate the answer: module, a question, and a right answer
EVALUATING: dict[str, tuple[str, dict[str, Any], str]] = {
    "countdown": ("games.countdown", {"metadata": {"numbers": [2, 3, 4], "target": 10}}, "2*3 + 4"),
    "puzzle24": ("games.puzzle24", {}, "(1 + 3)*(2 + 4)"),
    "polynomial_multiplication": ("algebra.polynomial_multiplication", {"answer": "x**2 + 3*x + 2"}, "2 + 3*x + x**2"),
    "simple_integration": (
        "algebra.simple_integration",
        {"metadata": {"variable": "x", "integrand": "2*x + cos(x)"}},
        "x**2 + sin(x) + C",
    ),
    "intermediate_integration": (
        "algebra.intermediate_integration",
        {"metadata": {"variable": "t", "integrand": "t*exp(t)"}},
        "exp(t)*(t - 1)",
    ),
    "string_insertion": ("algorithmic.string_insertion", {"answer": "ABCDA"}, "ABCDA"),
    "spiral_matrix": ("algorithmic.spiral_matrix", {"answer": "1 2 3"}, "1 2 3"),
    "binary_matrix": ("algorithmic.binary_matrix", {"answer": "0 1\n1 2"}, "0 1\n1 2"),
    "n_queens": ("games.n_queens", {"metadata": {"valid_answers": ["Q _\n_ Q"]}}, "Q _\n_ Q"),
}


def scorer(name: str, module: str, correct: Sequence[tuple[Any, str]] = ()) -> LibraryScorer:
    config = {"name": name, "module": f"reasoning_gym.{module}", "settings": {}}
    return LibraryScorer(f"task {name!r}", "reasoning_gym", name, config, lambda: correct)


def questions_of(name: str, module: str, entry: dict[str, Any]) -> Question:
    verify = ScoredAnswer(scorer(name, module), pickle.dumps(entry), str.strip)
    return Question(name, "", None, name, "training", verify)


QUESTIONS = {name: questions_of(name, module, entry) for name, (module, entry, _) in EVALUATING.items()}


@pytest.fixture(scope="module", autouse=True)
def _processes() -> None:
    try:
        _ = scorer("countdown", "games.countdown").judge
    except InputError as error:
        if "in a sandbox: " in str(error):
            pytest.skip(str(error))
        raise


def verdicts(answers: Sequence[str], names: Sequence[str] = tuple(EVALUATING)) -> dict[tuple[str, str], Verdict]:
    pairs = [(name, answer) for name in names for answer in answers]
    return dict(zip(pairs, judge_all([QUESTIONS[name] for name, _ in pairs], [answer for _, answer in pairs]), strict=True))


def test_code_in_an_answer_does_not_run(tmp_path: Path) -> None:
    right = judge_all(list(QUESTIONS.values()), [answer for _, _, answer in EVALUATING.values()])
    assert [verdict.score for verdict in right] == [1] * len(EVALUATING)
    marker = tmp_path / "marker"
    code = [
        f"__import__('os').system('touch {marker}')",
        f"open('{marker}', 'w').write('x')",
        f"exec(\"open('{marker}', 'w')\")",
        "(lambda: 24)()",
        "parse_expr('24')",
        "Symbol('x').func.__class__",
    ]
    for (name, answer), verdict in verdicts(code).items():
        assert not verdict.correct, (name, answer)
        assert (verdict.reason, verdict.failure) == (scorers.CODE, "code"), (name, answer)
    assert not marker.exists()
    for (name, answer), verdict in verdicts(["sympify('24')", "S('24')", "simplify('6*4')"]).items():  # text is never evaluated again
        assert not verdict.correct, (name, answer)


#: each would make the answer right if it ran in the process that scores it
FORGERIES = [
    "\"__import__('os').getpid()\"",
    # the frame of the scorer holds the question
    "().__class__.__base__.__subclasses__()[-1].__init__.__globals__['sys']._getframe(1).f_locals['entry']['answer']",
    "[x.f_back.f_locals for x in [(i for i in [1]).gi_frame]]",
    "max([0], key=lambda x: __import__('gc').get_objects())",
    "[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == 'Popen']",
    # the pipe of the results
    "__import__('os').write(4, b'x')",
    "[__import__('os').write(n, b'[{\"score\": \"1.0\"}]') for n in range(32)]",
    # the functions that decide
    "setattr(__import__('sys').modules['reasoning_gym.games.countdown'], 'parse_expr', lambda text: 10)",
    "Integer.__class__.__eq__",
    "Symbol.__eq__.__globals__",
    "type('X', (str,), {'__eq__': lambda a, b: True})()",
    "Lambda(x, x).__class__",
    "Function('f').__class__('g', (), {})",
    "S('1').__class__",
    "f'{().__class__}'",
    "'%s' % ().__class__",
    "[*().__class__.__mro__]",
    "(x := ().__class__)",
    "x.__class__ if x else x",
    "sum(c.__name__ for c in ().__class__.__mro__)",
    "Symbol(x.name)",
    "Float(().__doc__)",
    "Rational('1/2').__class__",
    "parse_expr(\"__import__('os')\")",
    "lambdify(x, x)",
    "eval(repr(24))",
    "globals()",
    "Integer(24, evaluate=print)",
    "print(24, file=open(0))",
]


def test_verdicts_cannot_be_forged() -> None:
    for (name, answer), verdict in verdicts(FORGERIES).items():
        assert not verdict.correct, (name, answer)
        assert verdict.score <= 0.1, (name, answer)


def test_large_values_are_not_evaluated() -> None:
    large = ["9**9**9**9", "2**2**2**2**2**2", "factorial(10**7)", "(10**8)!", "binomial(10**8, 5*10**7)", "1e999999999", "10**10**8 * x"]
    for (name, answer), verdict in verdicts(large).items():
        assert not verdict.correct, (name, answer)
        assert verdict.failure in ("size", "code", ""), (name, answer)  # code: a call where only literals are allowed
    assert verdicts(large[:1])["countdown", large[0]].reason == scorers.SIZE


def test_exceptions_of_scorers_are_wrong_answers() -> None:
    entry = {"metadata": {"initial_state": {"0_0": ["box_red"]}}}
    odd = questions_of("boxnet", "games.boxnet", entry)
    primes = questions_of("prime_factorization", "arithmetic.prime_factorization", {"answer": "2 × 3"})
    got = judge_all([odd, primes, primes, odd], ["[1]", "2 × x", "2 × 3", "null"])
    assert [verdict.correct for verdict in got] == [False, False, True, False]
    assert [verdict.failure for verdict in got] == ["exception", "exception", "", "exception"]
    assert got[1].reason == "the scorer failed: ValueError"
    assert got[1].score == 0
    assert failure_metrics(got) == {"judge/exception": 3}
    assert primes.verify("2 × x") == got[1]


REPLIES = {
    "right": Reply([{"score": "1.0", "refused": ""}]),
    "half": Reply([{"score": "0.5", "refused": ""}]),
    "slow": Reply(None, "timeout"),
    "large": Reply(None, "memory"),
    "crash": Reply(None, "signal 11"),
    "seven": Reply([{"score": "7.0", "refused": ""}]),
    "nan": Reply([{"score": "nan", "refused": ""}]),
    "forged": Reply({"score": "1.0"}),
    "two": Reply([{"score": "1.0", "refused": ""}] * 2),
    "empty": Reply([{}]),
}


class Processes:
    """Processes that fail when an answer that fails is among several."""

    def verdicts(self, requests: Sequence[list[tuple[str, bytes, str]]], timeout: float) -> list[Reply]:
        assert timeout > 0
        return [self.reply([answer for _, _, answer in request]) for request in requests]

    @staticmethod
    def reply(answers: list[str]) -> Reply:
        if len(answers) == 1:
            return REPLIES[answers[0]]
        return Reply([REPLIES[answer].value[0] for answer in answers]) if {*answers} <= {"right", "half"} else Reply(None, "ended")


def test_processes_that_fail_spoil_no_other_verdict() -> None:
    judged = scorer("any", "games.any")
    judged.judge = Processes()
    question = Question("any", "", None, "any", "test", ScoredAnswer(judged, b"", str.strip))
    answers = ["right", "right", *REPLIES, "half", "right"] * 3
    got = judge_all([question] * len(answers), answers)
    assert [verdict.correct for verdict in got] == [answer == "right" for answer in answers]
    assert [verdict.score for verdict in got] == [{"right": 1, "half": 0.5}.get(answer, 0) for answer in answers]
    kinds = {"slow": "time", "large": "memory", "seven": "range", "nan": "range", "right": "", "half": ""}
    assert [verdict.failure for verdict in got] == [kinds.get(answer, "death") for answer in answers]
    assert failure_metrics(got) == {"judge/death": 12, "judge/memory": 3, "judge/range": 6, "judge/time": 3}
    assert {verdict.reason for verdict in got if verdict.failure == "time"} == {"the scorer ran out of time"}
    assert "the process of the scorer failed: signal 11" in {verdict.reason for verdict in got}


def test_nan_is_not_a_right_answer() -> None:
    ordered = questions_of("number_sorting", "algorithmic.number_sorting", {"answer": "['1', '2']", "metadata": {"direction": "ascending"}})
    got = judge_all([ordered] * 3, ['["1", "2"]', "[NaN, NaN]", "['nan', 'nan']"])
    assert [(verdict.correct, verdict.failure) for verdict in got] == [(True, ""), (False, "nan"), (False, "nan")]


def test_bounded_values() -> None:
    value = scorers.literal_value
    for text in (
        "[[1, -2], (3,), {4: 'five'}, {6}, None]",
        "2 ** 8 + 0xff // 3 - (1 << 4)",
        "['a'] * 3 + ['b']",
        "'ab' + 'c'",
        "~5 ^ 3 | 1 & 7",
    ):
        assert value(text) == eval(text)
    calls = ["f()", "a.b", "a[0]", "lambda: 0", "[x for x in y]", "f'{1}'", "1 if 2 else 3"]
    for text in [*calls, "1 < 2", "'%99d' % 1", "{**{}}", "[*[]]", "1 and 2"]:
        with pytest.raises(scorers.Refused, match=scorers.CODE):
            value(text)
    products = ["[0] * 10 ** 9", "'a' * 10 ** 9", "10 ** 9 * 'a'", "2 ** 10 ** 6 * 2 ** 10 ** 6"]
    for text in [*products, "9 ** 9 ** 9", "1 << 10 ** 9", "1" * 10**6]:
        with pytest.raises(scorers.Refused, match=scorers.SIZE):
            value(text)
    with pytest.raises(NameError):
        value("text")


def test_scorers_that_cannot_be_used_are_refused_by_name() -> None:
    pattern = r"task 'chess': its answers are judged by reasoning_gym, which cannot be used in the sandbox \(.*games\.chess"
    with pytest.raises(InputError, match=pattern):
        _ = scorer("chess", "games.chess").judge
    _, entry, _ = EVALUATING["countdown"]
    with pytest.raises(InputError, match="task 'countdown': reasoning_gym does not accept its own answer '11'"):
        _ = scorer("countdown", "games.countdown", [(entry, "11")]).judge


@pytest.mark.slow
def test_time_memory_and_death_are_wrong_answers() -> None:
    coin = questions_of("coin_flip", "probability.coin_flip", {"answer": "1/2"})
    got = judge_all([coin] * 3, ["0.5", "1e999999999", "1/2"])  # they share a process at first
    assert [verdict.correct for verdict in got] == [True, False, True]
    assert (got[1].failure, got[1].reason, got[1].score) == ("time", "the scorer ran out of time", 0)


@pytest.mark.slow
def test_every_task_scores_honest_answers_as_the_package_does() -> None:
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    checked = 0
    for name in sorted(set(DATASETS) - {"composite"}):
        source = tasks.source(name)
        questions = source.questions("training", 2, 1)
        data = reasoning_gym.create_dataset(name, size=2, seed=3)
        for number, question in enumerate(questions):
            entry = data[number]
            answers = honest_answers(entry.get("answer"))
            for answer, verdict in zip(answers, judge_all([question] * len(answers), answers), strict=True):
                expected: float | str
                try:
                    expected = float(data.score_answer(answer, copy.deepcopy(entry)))
                except Exception as error:
                    expected = f"the scorer failed: {type(error).__name__}"
                assert expected == (verdict.reason if verdict.failure == "exception" else verdict.score), (name, answer)
                assert verdict.correct == (not isinstance(expected, str) and expected >= 1), (name, answer)
                checked += 1
    assert checked > 5000


#: correct answers, and answers in the forms that models give
CORRECT = ["1/2", "42", r"$\frac{\sqrt{2}}{2}$", r"$\{1,2,3\}$", "$x^2+1$", r"$(0,\infty)$"]
CORRECT += ["12%", "cat", r"\boxed{7}", "$x<2$", "$x=5$", "24"]
GIVEN = ["0.5", ".5", "50%", r"$\frac12$", r"\boxed{1/2}", "42.0", "forty two", r"$\frac{1}{\sqrt{2}}$", "0.7071067", r"$\{3,2,1\}$"]
GIVEN += ["1, 2, 3", "$1+x^2$", "x^2+1", "$x>0$", "(0, oo)", "0.12", r"$12\%$", "dog", "7", "$2>x$", "5", "3*(4+5)-2**3", "2**10"]
GIVEN += [
    "the final answer is 42. I hope",
    "$4!$",
    "$2^{10}$",
    r"$\frac{1}{0}$",
    r"$\binom{4}{2}\cdot 4$",
    "$x$",
    "",
    "so it is $42$ or 1/2",
]
HUGE = ["$9^{9^{9^{9}}}$", "9**9**9**9", "$2^{100000000}$", "$100000000!$", r"$\binom{100000000}{50000000}$", r"$\prod_{k=1}^{100000}k$"]


@pytest.mark.slow
def test_mathematics_is_compared_as_the_package_does() -> None:
    math_verify = pytest.importorskip("math_verify")
    scores = LibraryScorer("mathematics", "math_verify", "mathematics", {}, lambda: [("1/2", "0.5")])
    for gold in CORRECT:
        answers = CORRECT + GIVEN
        question = Question(gold, "", None, "data", "test", ScoredAnswer(scores, pickle.dumps(gold), str.strip))
        for answer, verdict in zip(answers, judge_all([question] * len(answers), answers), strict=True):
            equal = math_verify.verify(math_verify.parse(gold), math_verify.parse(answer))
            assert (verdict.correct, verdict.failure) == (bool(equal), ""), (gold, answer)
    assert [verdict.failure for verdict in judge_all([question] * len(HUGE), HUGE)] == ["size"] * len(HUGE)


def honest_answers(gold: str | None) -> list[str]:
    """A correct answer, and others of the same form."""
    answers = ["0", "1", "-7", "12", "3.5", "1/2", "yes", "no", "True", "A", "red"]
    answers += ["[]", "[1, 2]", "1 2 3", "a, b", '{"a": 1}', "x + 1", "2*x"]
    if gold is not None:
        answers += [gold, gold.upper(), gold.lower(), gold[::-1], gold[:-1], f"{gold}, {gold}", f"the answer is {gold}"]
        answers += [re.sub(r"\d+", lambda found: str(int(found[0]) + 1), gold), re.sub(r"\d", "1", gold), gold.replace(" ", "")]
        answers += [json.dumps(gold), json.dumps(gold.split()), repr(gold.split()), repr(list(gold))]
        answers += [repr([row.split() for row in gold.splitlines()]), f"({gold})", f"{gold} + 0", f"1*({gold})"]
    return [answer.strip() for answer in answers]


def test_equal_completions_of_a_question_are_judged_once() -> None:
    judged: list[tuple[str, str]] = []

    def question(name: str) -> Question:
        def verify(text: str) -> Verdict:
            judged.append((name, text))
            return Verdict.binary(text == name, f"{text} is not {name}")

        return Question(name, "", None, "", "", verify)

    first, second = question("a"), question("b")
    questions, texts = [first, second, first, first, second], ["a", "a", "b", "a", "b"]
    verdicts = judge_all(questions, texts)
    assert [verdict.correct for verdict in verdicts] == [True, False, False, True, True]
    assert [verdict.reason for verdict in verdicts] == ["", "a is not b", "b is not a", "", ""]
    assert judged == [("a", "a"), ("b", "a"), ("a", "b"), ("b", "b")]

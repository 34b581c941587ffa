"""Seirênes (arXiv 2605.11636): one model answers problems, writes misleading hints to them, and answers under these hints.

A step asks some problems of the task in three streams, each a role. The solver answers them; the adversary writes hints to them; and the
problems are answered under each hint. All answers are graded by the verifier of the task. The adversary is rewarded where its hint costs
right answers. All three streams are trained in one update, each with advantages of its own, from the samples of a prompt.

What is known of the paper, and where this departs from it, is on docs/methods/seirenes.md. The full text was not read: defaults of sizes,
weights, the queue and the demotion are reconstructions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int

from dynamics.errors import InputError
from dynamics.runs.directory import RunDirectory
from dynamics.train import opponent_rewards
from dynamics.train.answers import answer_metrics
from dynamics.train.completions import SampledCompletion
from dynamics.train.coverage import Coverage
from dynamics.train.games import robustness
from dynamics.train.games.game import Game, JudgedCompletion, Play, Role, Turn, role_metrics
from dynamics.train.games.hints import Hint, HintForm, form_of
from dynamics.train.games.seirenes_settings import SeirenesConfig
from dynamics.train.games.visits import Visits
from dynamics.train.games.waiting import Chosen, Group, WaitingGroups
from dynamics.train.policy import Policy
from dynamics.train.probe_prompts import ProbePrompts, solver_probes
from dynamics.train.rng import stream
from dynamics.train.tasks.judges import failure_metrics
from dynamics.train.tasks.problem import Question, Source, pool_of, recorded_of
from dynamics.train.tasks.prompt_formats import encode_prompts, encode_questions, language_of

#: the streams: answers without a hint, hints, and answers under a hint
SOLVER, ADVERSARY, HINTED = "solver", "adversary", "hinted"


@dataclass
class Attempt:
    """A hint of the adversary to a problem of the step.

    Attributes
    ----------
    problem : number of the problem in the step.
    sampled, text : the completion, as tokens and text.
    hint : what was read from it.
    answers : under the hint; none if it cannot be shown.
    """

    problem: int
    sampled: SampledCompletion
    text: str
    hint: Hint
    answers: list[JudgedCompletion]

    @property
    def rate(self) -> float:
        """Share of right answers under it; NaN without any."""
        return share_right(self.answers) if self.answers else math.nan


def share_right(answers: Sequence[JudgedCompletion]) -> float:
    """Return the share of right answers."""
    return float(np.mean([verdict.correct for _, _, verdict in answers]))


class Seirenes(Game):
    """The game. Its state is the place in the order of problems, which of them are mastered, and the groups that wait.

    Attributes
    ----------
    form : of the hints.
    visits : the order of problems.
    waiting : groups of earlier steps that are yet to be trained on.
    base : the base model, which writes the hints of ``--adversary snapshot``.
    """

    def __init__(self, config: SeirenesConfig, policy: Policy, source: Source):
        super().__init__(config, policy)
        self.config, self.policy, self.source = config, policy, source
        self.form: HintForm = form_of(language_of(policy.tokenizer), policy.tokenizer)
        self.questions = source.questions("training", config.num_problems, config.seed)
        if not self.questions:
            raise InputError(f"{source.name}: has no problems to train on")
        for question in self.questions:
            if not self.form.accepts(question):
                raise InputError(f"{question.id}: is a problem of {question.task}, which has no hints; choose a task of deduction only")
        self.prompts = encode_questions(policy.tokenizer, self.questions)
        weights = {SOLVER: config.solver_weight, ADVERSARY: config.adversary_weight, HINTED: config.hinted_weight}
        self.roles = {role: Role(config.advantage, weight=weight) for role, weight in weights.items()}
        self.visits = Visits(len(self.questions), config.seed, config.mastered_after, config.mastered_rate)
        self.waiting = WaitingGroups(config.waiting_groups, config.waiting_steps)
        self.coverage = Coverage([question.program or question.id for question in self.questions])
        self.base = policy.copy() if config.adversary == "snapshot" else None

    def inputs(self) -> Iterable[bytes]:
        """Return the tokens of the problems."""
        return (tokens.tobytes() + b"\n" for tokens in self.prompts)

    def metadata(self) -> dict[str, Any]:
        """Describe the problems to train on."""
        return {"pool": pool_of(self.source.name, self.questions) | recorded_of(self.source)}

    def state(self) -> dict[str, Any]:
        """Return the state."""
        return self.snapshot()()

    def snapshot(self) -> Callable[[], dict[str, Any]]:
        """Return a function that gives the state as it is now."""
        visits, waiting, met = self.visits.state(), self.waiting.snapshot(), self.coverage.kept()
        return lambda: {"visits": visits, "waiting": waiting(), "met": met}

    def load(self, kept: dict[str, Any]) -> None:
        """Restore a state."""
        self.visits.load(kept["visits"])
        self.waiting.load(kept["waiting"])
        self.coverage = Coverage([question.program or question.id for question in self.questions], kept["met"])

    def play(self, step: int) -> Play:
        """Answer the problems, write hints to them, and answer them under these."""
        config = self.config
        indices, passed = self.visits.next(config.prompts_per_step)
        questions, prompts = [self.questions[index] for index in indices], [self.prompts[index] for index in indices]
        hints = config.adversary != "none"
        count = config.group_size if hints else config.answers_and_hints
        clean = self.judge(questions, self.ask(self.policy, prompts, count, "seirenes clean", step))
        for index, answers in zip(indices, clean, strict=True):
            self.visits.saw(index, share_right(answers) == 1)
        attempts = self._attempts(questions, step) if hints else []
        streams = {SOLVER: self._solver_groups(step, questions, prompts, clean)}
        if hints:
            streams[ADVERSARY] = self._adversary_groups(step, questions, clean, attempts)
            streams[HINTED] = self._hinted_groups(step, questions, attempts)
        fresh = [turn for groups in streams.values() for group in groups for turn in group.turns]
        metrics = role_metrics(fresh) | self._metrics(questions, clean, attempts)
        metrics |= {"mastered/problems": self.visits.mastered, "mastered/passed": passed}
        metrics |= self.coverage.add([question.program or question.id for question in questions])
        turns = []
        for role, groups in streams.items():
            chosen, more = self._choose(role, groups, step)
            turns += chosen
            metrics |= more
        return Play(turns, metrics)

    # asking

    def _attempts(self, questions: Sequence[Question], step: int) -> list[Attempt]:
        """Have hints written to problems, and the problems answered under those that can be shown."""
        config = self.config
        asked = encode_prompts(self.tokenizer, [self.form.prompt(question) for question in questions])
        written = self.ask(self.base or self.policy, asked, config.num_hints, "seirenes hint", step, config.max_hint_tokens)
        attempts = []
        for number, (question, group) in enumerate(zip(questions, written, strict=True)):
            for sampled in group:
                text = self.text(sampled)
                attempts.append(Attempt(number, sampled, text, self.form.read(question, text), []))
        shown = [attempt for attempt in attempts if not attempt.hint.fault]
        hinted = [self.form.under(questions[attempt.problem], attempt.hint.text) for attempt in shown]
        if hinted:
            prompts = encode_questions(self.tokenizer, hinted)
            answers = self.judge(hinted, self.ask(self.policy, prompts, config.hinted_samples, "seirenes hinted", step))
            for attempt, group_of in zip(shown, answers, strict=True):
                attempt.answers = group_of
        return attempts

    # turns

    def _solver_groups(
        self, step: int, questions: Sequence[Question], prompts: Sequence[Int[np.ndarray, " _"]], clean: Sequence[list[JudgedCompletion]]
    ) -> list[Group]:
        learns = self.config.clean_answers == "trained"
        return [
            Group(step, tuple(_answers(SOLVER, question, ids, answers, f"{SOLVER} {step} {number}", {}, learns)))
            for number, (question, ids, answers) in enumerate(zip(questions, prompts, clean, strict=True))
        ]

    def _adversary_groups(
        self, step: int, questions: Sequence[Question], clean: Sequence[list[JudgedCompletion]], attempts: Sequence[Attempt]
    ) -> list[Group]:
        config = self.config
        reward = opponent_rewards.REWARDS[config.adversary_reward].function
        prompts = [self.form.prompt(question) for question in questions]
        encoded = encode_prompts(self.tokenizer, prompts)
        groups: list[list[Turn]] = [[] for _ in questions]
        for attempt in attempts:
            question, rate, hint = questions[attempt.problem], share_right(clean[attempt.problem]), attempt.hint
            shown = not hint.fault
            row = {"problem": question.id, "hint": hint.text, "valid": shown, "reason": hint.fault}
            row |= {"true": hint.true, "on_path": hint.on_path, "clean_rate": rate, "hinted_rate": attempt.rate if shown else None}
            row |= question.about_program()
            groups[attempt.problem].append(
                Turn(
                    ADVERSARY,
                    question.task,
                    prompts[attempt.problem],
                    encoded[attempt.problem],
                    attempt.sampled,
                    attempt.text,
                    f"{ADVERSARY} {step} {attempt.problem}",
                    float(reward(np.float64(rate), np.float64(attempt.rate))) if shown else config.invalid_hint_reward,
                    name=f"hint to {question.id}",
                    learns=config.adversary == "trained",
                    packed=config.adversary != "snapshot",
                    row=row,
                )
            )
        return [Group(step, tuple(group)) for group in groups]

    def _hinted_groups(self, step: int, questions: Sequence[Question], attempts: Sequence[Attempt]) -> list[Group]:
        groups = []
        shown = [(number, attempt) for number, attempt in enumerate(attempts) if attempt.answers]
        hinted = [self.form.under(questions[attempt.problem], attempt.hint.text) for _, attempt in shown]
        for (number, attempt), question, ids in zip(shown, hinted, encode_questions(self.tokenizer, hinted), strict=True):
            row = {"hint": attempt.hint.text, "true": attempt.hint.true}
            groups.append(Group(step, tuple(_answers(HINTED, question, ids, attempt.answers, f"{HINTED} {step} {number}", row, True))))
        return groups

    def _choose(self, role: str, groups: list[Group], step: int) -> tuple[list[Turn], dict[str, float]]:
        """Return the turns of a stream in this step, and metrics of its queue."""
        learns = all(turn.learns and turn.packed for group in groups for turn in group.turns)
        sampled_groups = self.config.prompts_per_step * (self.config.num_hints if role == HINTED else 1)
        quota = math.ceil(self.config.trained_share * sampled_groups)
        chosen = self.waiting.choose(role, groups, quota, step) if learns else Chosen(groups, [], [], 0)
        turns = [turn for group in chosen.now for turn in group.turns]
        turns += [replace(turn, packed=False, row=turn.row | {"waits": True}) for group in chosen.later for turn in group.turns]
        for group in chosen.waited:
            turns += [replace(turn, row=turn.row | {"sampled_step": group.step, "waited": step - group.step}) for turn in group.turns]
        if not self.config.waiting_groups or not learns:
            return turns, {}
        metrics: dict[str, float] = {
            f"waiting/{role}/groups": len(self.waiting.groups.get(role, [])),
            f"waiting/{role}/trained": len(chosen.waited),
            f"waiting/{role}/dropped": chosen.dropped,
        }
        if chosen.waited:
            metrics[f"waiting/{role}/age"] = float(np.mean([step - group.step for group in chosen.waited]))
        return turns, metrics

    # measurements

    def _metrics(self, questions: list[Question], clean: list[list[JudgedCompletion]], attempts: list[Attempt]) -> dict[str, Any]:
        """Compute metrics of the answers and hints of a step."""
        scores = np.array([[verdict.score for _, _, verdict in group] for group in clean])
        rates = [share_right(group) for group in clean]
        asked = [question for question, group in zip(questions, clean, strict=True) for _ in group]
        answered = [(text, sampled.ids) for group in clean for sampled, text, _ in group]
        metrics: dict[str, Any] = {
            "reward": float(scores.mean()),
            "group/zero_std": float((scores.std(1) == 0).mean()),
            "group/all_correct": float(np.mean([rate == 1 for rate in rates])),
            "group/none_correct": float(np.mean([rate == 0 for rate in rates])),
        }
        metrics |= failure_metrics([verdict for group in clean for _, _, verdict in group])
        metrics |= answer_metrics(asked, [text for text, _ in answered], [ids for _, ids in answered], self.policy.token_kinds)
        return metrics | hint_metrics(rates, attempts)

    def probe_prompts(self) -> ProbePrompts:
        """Return validation problems for the solver, for the adversary, and under hints by the first rule."""
        config = self.config
        probes = solver_probes(self.source, self.policy, config.seed, config.max_new_tokens)
        if not probes:
            return {}
        asked_of = self.source.questions("validation", len(probes["solver"][0]), config.seed)
        questions = [question for question in asked_of if self.form.accepts(question)]
        hinted = []
        for number, question in enumerate(questions):
            hint = self.form.by_rule(self.form.rules[0], question, questions, stream(config.seed, "probe hints", number))
            hinted += [] if hint is None else [self.form.under(question, hint)]
        if questions:
            asked = [self.form.prompt(question) for question in questions]
            probes[ADVERSARY] = (encode_prompts(self.tokenizer, asked), config.max_hint_tokens)
        if hinted:
            probes[HINTED] = (encode_questions(self.tokenizer, hinted), config.max_new_tokens)
        return probes

    def on_train_end(self, directory: RunDirectory, load_base: Callable[[], Policy]) -> None:
        """Write ``robustness.jsonl``: base and trained model on held-out problems, without hints and under fixed ones."""
        config, count = self.config, self.config.robustness_problems
        if not count:
            return
        questions = robustness.held_out(self.source, self.form, count, config.seed)
        models = {robustness.BASE: load_base(), robustness.TRAINED: self.policy}
        hints = robustness.rule_hints(self.form, questions, config.seed)
        for name, policy in models.items():
            hints += robustness.written_hints(self.form, policy, questions, name, config, config.max_hint_tokens)
        asked = (self.form, questions, hints)
        rows = [row for name, policy in models.items() for row in robustness.ask(policy, *asked, name, config.robustness_samples, config)]
        directory.write_rows(robustness.FILE, (row.to_json() for row in rows))


def _answers(
    role: str,
    question: Question,
    ids: Int[np.ndarray, " _"],
    answers: Sequence[JudgedCompletion],
    group: str,
    more: dict[str, Any],
    learns: bool,
) -> list[Turn]:
    """Make the turns of the answers to a question."""
    turns = []
    for sampled, text, verdict in answers:
        row = {"problem": question.id, "reason": verdict.reason, "correct": verdict.correct} | more | question.about_program()
        asked = (question.prompt, ids, sampled, text, group)
        turns.append(Turn(role, question.task, *asked, reward=verdict.score, name=question.id, learns=learns, row=row))
    return turns


def hint_metrics(rates: Sequence[float], attempts: Sequence[Attempt]) -> dict[str, float]:
    """Compute metrics of the hints of a step.

    Parameters
    ----------
    rates : share of right answers without a hint, of each problem.
    attempts : the hints.

    Returns
    -------
    dict
        ``adversary/readable``: share of hints that can be shown; ``adversary/failed/REASON``: of those that cannot, by reason;
        ``adversary/true``, ``/wrong``, ``/on_path``: share of all hints that are true, not true, and about a step of the program, where
        that is known; ``adversary/misleads``: share of those shown under which fewer answers are right; ``adversary/drop``: mean over
        those shown of the share right without minus under the hint, ``/true`` and ``/wrong`` over these hints only;
        ``adversary/distinct``: different hints / hints, of each problem on average; ``hinted/rate``: share right under hints.

    Notes
    -----
    Both shares of a pair are from few samples, so ``misleads`` is well above 0 for hints without any effect; ``drop`` is not biased.
    The problems are those that are trained on, and the hints change with the adversary: ``drop`` falls if it gets worse, too.
    """
    if not attempts:
        return {}
    metrics: dict[str, float] = {"adversary/readable": float(np.mean([not attempt.hint.fault for attempt in attempts]))}
    for reason in sorted({attempt.hint.fault for attempt in attempts} - {""}):
        metrics[f"adversary/failed/{reason}"] = float(np.mean([attempt.hint.fault == reason for attempt in attempts]))
    if any(attempt.hint.true is not None for attempt in attempts):
        metrics["adversary/true"] = float(np.mean([attempt.hint.true is True for attempt in attempts]))
        metrics["adversary/wrong"] = float(np.mean([attempt.hint.true is False for attempt in attempts]))
        metrics["adversary/on_path"] = float(np.mean([attempt.hint.on_path is True for attempt in attempts]))
    shown = [attempt for attempt in attempts if attempt.answers]
    if shown:
        drops = np.array([rates[attempt.problem] - attempt.rate for attempt in shown])
        metrics |= {
            "hinted/rate": float(np.mean([attempt.rate for attempt in shown])),
            "adversary/misleads": float(np.mean(drops > 0)),
            "adversary/drop": float(drops.mean()),
        }
        for name, truth in (("true", True), ("wrong", False)):
            of_kind = drops[[attempt.hint.true is truth for attempt in shown]]
            if len(of_kind):
                metrics[f"adversary/drop/{name}"] = float(of_kind.mean())
    distinct = [[attempt.hint.text or attempt.text for attempt in attempts if attempt.problem == number] for number in range(len(rates))]
    metrics["adversary/distinct"] = float(np.mean([len(set(texts)) / len(texts) for texts in distinct]))
    return metrics

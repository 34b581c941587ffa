"""What was the same in two runs, and what not: a table for each run, and the comparison of such tables.

A difference between two curves is one of the methods only if the runs were matched in all else. The table of a run is a function of its
``run.json`` and of the sums of a few columns of its ``metrics.jsonl``; nothing else is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from typing import Any

from dynamics.errors import printable

#: a cell of the table; None if it is not known
Cell = str | int | float | None

#: how the values of a row compare
SAME, DIFFERS, DEFINED, UNKNOWN = "same", "differs", "differs by definition", "unknown"
#: columns of ``metrics.jsonl`` of which the table needs the sum over all steps
SUMMED = ("tokens", "completions_trained", "proposals_trained", "tokens_sampled", "tokens_with_gradient")
#: rows that are not set but happen: the policy decides how long its completions are
OUTCOMES = ("tokens sampled", "tokens with gradient")
#: why rows of ``OUTCOMES`` differ
BY_POLICY = "the policy decides the length of completions, and which of them have an advantage"
#: rows, in the order of the table
ROWS = (
    "program pool",
    "training problems",
    "data order",
    "optimizer steps",
    "problems a step",
    "completions a problem",
    "completions trained on",
    "of them proposals",
    *OUTCOMES,
    "reward",
    "estimator",
    "baseline",
    "further terms of the loss",
    "loss aggregation",
    "learning rate",
    "schedule",
    "optimizer",
    "master dtype",
    "compute dtype",
    "storage dtype",
    "base",
    "sampling temperature",
    "longest completion",
    "longest proposal",
    "proposer",
    "game",
)
#: estimator -> what it subtracts and divides by; {cell}: the samples that are normalised together
BASELINES = {
    "grpo": "mean of the problem's samples, divided by their standard deviation",
    "dr_grpo": "mean of the problem's samples",
    "rloo": "mean of the problem's other samples",
    "reinforce++": "mean over the tokens of {cell}, divided by the standard deviation",
    "reinforce++-sequence": "mean over the completions of {cell}, divided by the standard deviation",
    "reinforce++-baseline": "mean of the problem's samples, then mean over the tokens of {cell}, divided by the standard deviation",
    "reinforce": "none",
}
_NO_SAMPLES = "its completions are given: nothing is sampled, rewarded or estimated"
_NO_PROPOSALS = "it has no role that proposes"
#: of self-play, and of the control that has its estimator
_NO_GROUPS = "whitened in each role and task type: a proposal has no other samples of its prompt to compare with"
_STREAMS = "its completions are answers, hints, and answers under these that can be shown, each a stream of its own"
_ONE_COMPLETION = "a problem has one given completion"
#: of PasoDoble
_USABLE = "it trains on problems that are solved sometimes, of passages that have one: the policies decide how many"
#: methods that train on what they propose
_PROPOSING = ("selfplay", "pasodoble", "populora")
#: rows that a method settles -> why
SETTLED: dict[str, dict[str, str]] = {
    "sft": {
        **dict.fromkeys(("tokens sampled", "reward", "estimator", "baseline", "sampling temperature"), _NO_SAMPLES),
        **dict.fromkeys(("of them proposals", "longest proposal", "proposer", "game"), _NO_PROPOSALS),
        **dict.fromkeys(("problems a step", "completions a problem"), _ONE_COMPLETION),
    },
    "rlvr": dict.fromkeys(("of them proposals", "longest proposal", "proposer", "game"), _NO_PROPOSALS),
    "selfplay": {
        **dict.fromkeys(("program pool", "training problems", "data order"), "it trains on what it proposes, when it proposes it"),
        **dict.fromkeys(("of them proposals", "longest proposal", "proposer", "game"), "one role proposes and one solves"),
        **dict.fromkeys(("estimator", "baseline"), _NO_GROUPS),
    },
    "seirenes": {
        **dict.fromkeys(("of them proposals", "longest proposal", "proposer"), _NO_PROPOSALS),
        **dict.fromkeys(("problems a step", "completions a problem", "completions trained on"), _STREAMS),
        **dict.fromkeys(("loss aggregation", "game"), _STREAMS),
        "data order": "problems that are mastered are rarely asked",
    },
    "spc": {
        **dict.fromkeys(("program pool", "training problems", "data order"), "it trains on steps, not on problems to be solved"),
        **dict.fromkeys(("problems a step", "completions a problem"), "a step of a solution is altered or judged once"),
        **dict.fromkeys(("of them proposals", "longest proposal", "proposer", "game"), "one player alters steps and one judges them"),
        **dict.fromkeys(("reward", "estimator", "baseline", "further terms of the loss"), "what one player wins the other loses"),
    },
    "pasodoble": {
        **dict.fromkeys(("program pool", "training problems", "data order"), "it trains on what it proposes, when it proposes it"),
        **dict.fromkeys(("of them proposals", "longest proposal", "proposer", "game"), "one role proposes and one solves"),
        **dict.fromkeys(("problems a step", "completions a problem", "completions trained on"), _USABLE),
        "reward": "its own proposals say what is right, unless --truth says otherwise",
    },
    "populora": {
        **dict.fromkeys(("program pool", "training problems", "data order"), "it trains on what it proposes, when it proposes it"),
        **dict.fromkeys(("of them proposals", "longest proposal", "proposer", "game"), "teachers propose and students solve"),
        **dict.fromkeys(("estimator", "baseline"), "each role has an estimator of its own, over its whole population"),
        "reward": "the paper's, which tells wrong answers from those that cannot be read",
    },
}
#: value of ``players`` that makes a run a control
_OTHER_PLAYERS = {"selfplay": "two", "pasodoble": "shared"}
_OF_POOL = ("program pool", "training problems")
#: rows that the training of the proposer settles
_NOT_TRAINED = ("completions a problem", "completions trained on", "of them proposals", "proposer")


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes
    ----------
    name : one of ``ROWS``.
    planned : what the settings say; None if they do not settle it.
    happened : what the metrics of the steps so far say; None if it is not measured.
    defined : why the method, or the control that the run is, settles the value; empty if it is free.
    same_by : what is compared instead of the value, such as a checksum; empty if the value is.
    otherwise : what the value would be without the definition, if that is known: the definition explains a difference from no other value.
    """

    name: str
    planned: Cell = None
    happened: Cell = None
    defined: str = ""
    same_by: str = ""
    otherwise: Cell = None

    @property
    def value(self) -> Cell:
        """What happened, or what is planned."""
        return self.planned if self.happened is None else self.happened


@dataclass(frozen=True)
class Matching:
    """The table of a run.

    Attributes
    ----------
    kind : the method, and which control it is, such as ``rlvr on proposed problems, in recorded order``; empty if nothing says it.
    rows : those of ``ROWS``, in order.
    seed : of the run; None if it is not known.
    """

    kind: str
    rows: list[Row]
    seed: int | None = None

    @property
    def unknown(self) -> list[str]:
        """Names of the rows of which nothing is known."""
        return [row.name for row in self.rows if row.value is None]

    def to_json(self) -> dict[str, Any]:
        """Return the table as ``run.json`` holds it."""
        return {"kind": self.kind, "rows": [asdict(row) for row in self.rows]}


@dataclass(frozen=True)
class Compared:
    """A row of several runs.

    Attributes
    ----------
    name : of the row.
    values : of each run; None if it is not known.
    status : ``SAME``, ``DIFFERS``, ``DEFINED`` or ``UNKNOWN``.
    why : what defines the difference, if it is one by definition.
    """

    name: str
    values: list[Cell]
    status: str
    why: str = ""


@dataclass(frozen=True)
class Contrast:
    """What two runs differ in.

    Attributes
    ----------
    kinds : of both.
    differs, defined, unknown : names of the rows that differ, that differ by definition, and that are not known of both.
    seeds_differ : whether they have different seeds.
    """

    kinds: tuple[str, str]
    differs: list[str] = field(default_factory=list)
    defined: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    seeds_differ: bool = False

    @property
    def confounders(self) -> list[str]:
        """Names of the rows that could explain a difference: those that differ or are not known, but for what only happens."""
        return [*self.differs, *(name for name in self.unknown if name not in OUTCOMES)]

    @property
    def is_of_methods(self) -> bool:
        """Whether the runs are of two methods, or a method and a control, and nothing differs but what defines them."""
        return self.kinds[0] != self.kinds[1] and all(self.kinds) and not self.confounders

    @property
    def text(self) -> str:
        """Say in a sentence what a difference between the results is due to."""
        first, second = (printable(kind or "unknown method", 80) for kind in self.kinds)
        pair = f"{first} and {second}" if first != second else f"two runs of {first}"
        seeds = " The seeds differ, and may have drawn other problems." if self.seeds_differ and set(self.differs) & set(_OF_POOL) else ""
        if self.is_of_methods:
            outcomes = [name for name in self.defined if name not in OUTCOMES]
            return f"A contrast of methods: {pair} differ in nothing but what defines them ({_list(outcomes) or 'nothing measured'})."
        unknown = [name for name in self.unknown if name not in OUTCOMES]
        of = "one setting" if first == second else "methods"
        if self.differs:
            also = f" Of both, it is not known whether these are the same: {_list(unknown)}." if unknown else ""
            if of == "one setting" and len(self.differs) == 1 and not unknown:
                return f"A contrast of one setting: {pair} differ in {self.differs[0]} alone.{seeds}"
            return f"Not a contrast of {of}: {pair} {'' if of == 'one setting' else 'also '}differ in {_list(self.differs)}.{also}{seeds}"
        if unknown:
            return f"Not known to be a contrast of {of}: of {pair}, it is not known whether these are the same: {_list(unknown)}."
        return f"The same settings: {pair} differ in nothing but the seed and what follows from it."


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1] if names else ""


def totals(lines: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Sum the columns ``SUMMED`` over lines of ``metrics.jsonl``, and count the lines as ``steps``; columns with gaps are left out.

    A line of step 0, of what was measured before training, is none of these.
    """
    sums: dict[str, float] = {"steps": 0}
    missing: set[str] = set()
    for line in lines:
        if line.get("step") == 0:
            continue
        sums["steps"] += 1
        for name in SUMMED:
            value = line.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                sums[name] = sums.get(name, 0) + value
            else:
                missing.add(name)
    return {name: value for name, value in sums.items() if name not in missing}


def matching(document: Mapping[str, Any], sums: Mapping[str, float]) -> Matching:
    """Make the table of a run of ``dynamics.train``.

    Parameters
    ----------
    document
        Contents of ``run.json``, of any version: what it does not say is unknown. It may be a stranger's.
    sums
        The ``totals`` of its metrics so far; empty before the first step.

    Returns
    -------
    Matching
        With every row of ``ROWS``.

    Notes
    -----
    ``completions trained on`` counts samples whose advantage is 0 too: they were paid for. ``tokens with gradient`` does not count them.
    Equal numbers of completions are not equal numbers of tokens, nor of problems: each has its row.
    """
    settings = _Settings(document.get("config"))
    method = str(document.get("method"))
    steps = int(sums.get("steps", 0))
    rows = [*_data(document, settings, method), *_counts(settings, method, sums, steps), *_objective(settings, method)]
    rows += [*_optimizer(document, settings), *_sampling(settings, method)]
    kind, settled = _kind(settings, method)
    by_name = {row.name: row for row in rows}
    ordered = [by_name.get(name, Row(name)) for name in ROWS]
    seed = document.get("seed")
    return Matching(
        kind,
        [replace(row, defined=settled.get(row.name, "")) for row in ordered],
        seed if isinstance(seed, int) else None,
    )


class _Settings:
    """Settings of a run that can be anything: what is of another type than expected is not known."""

    def __init__(self, config: Any):
        self._config: Mapping[str, Any] = config if isinstance(config, Mapping) else {}

    def number(self, name: str) -> float | None:
        value = self._config.get(name)
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) else None

    def whole(self, name: str) -> int | None:
        value = self.number(name)
        return int(value) if value is not None and value == int(value) and 0 <= value < 2**53 else None

    def text(self, name: str, otherwise: str | None = None) -> str | None:
        value = self._config.get(name, otherwise)
        return printable(value, 200) if isinstance(value, str) else None

    def texts(self, name: str) -> list[str]:
        value = self._config.get(name)
        return [printable(part, 60) for part in value[:20]] if isinstance(value, list) else []


def _kind(settings: _Settings, method: str) -> tuple[str, dict[str, str]]:
    """Name the method and the control that a run is, and say which rows that settles."""
    settled = dict(SETTLED.get(method, {}))
    kind = printable(method, 40) if method != "None" else ""
    task = settings.text("task") or ""
    if task.startswith("proposed:"):
        kind += " on proposed problems"
        settled |= dict.fromkeys(_OF_POOL, "its problems are those that a run of a game proposed")
    if task.startswith("correct:"):
        kind += " on correct samples"
        settled |= dict.fromkeys(_OF_POOL, "its problems are those of which a run of RLVR had correct samples")
    if method != "selfplay" and settings.text("data_order", "shuffled") == "recorded":
        kind += ", in recorded order"
        settled["data order"] = "it asks the problems in the order in which they were recorded"
    if method == "rlvr" and settings.text("advantage_cells", "batch") == "role-task":
        kind += ", with the estimator of self-play"
        settled |= dict.fromkeys(("estimator", "baseline"), _NO_GROUPS)
    control, more = _control_of_game(settings, method)
    return kind + control, settled | more


def _control_of_game(settings: _Settings, method: str) -> tuple[str, dict[str, str]]:
    """Name the control of a game that a run is, and say which rows that settles."""
    kind, settled = "", dict[str, str]()
    if method == "seirenes" and (adversary := settings.text("adversary")) not in (None, "trained"):
        kind += f", {'no' if adversary == 'none' else adversary} adversary"
    if method == "seirenes" and settings.text("clean_answers") == "measured":
        kind += ", no clean stream"
    if method == "spc" and (frozen := settings.text("frozen", "none")) != "none":
        kind += f", frozen {frozen}"
        settled |= dict.fromkeys(("problems a step", "completions trained on", "proposer"), f"its {frozen} has no gradient")
    if method in _PROPOSING and (players := settings.text("players")) and players == _OTHER_PLAYERS.get(method):
        kind += ", two models" if players == "two" else ", one model"
        settled["game"] = "which models have the roles is what it is a control of"
    if method == "populora" and settings.text("population") == "one":
        kind += ", one adapter"
        settled["game"] = "how many adapters there are is what it is a control of"
    elif method == "populora":
        kind += "" if settings.whole("evolve_every") else ", no evolution"
        kind += ", uniform pairing" if settings.text("pairing") == "uniform" else ""
    if method == "selfplay" and settings.text("solver_truth", "executor") == "majority":
        kind += ", paid by the majority"
        settled["reward"] = "the majority of the answers to a problem says what is right"
    if method in _PROPOSING and (proposer := settings.text("proposer")) in ("frozen", "snapshot"):
        kind += f", {proposer} proposer"
        settled |= dict.fromkeys(_NOT_TRAINED, f"its {proposer} proposer has no gradient")
    return kind, settled


def _data(document: Mapping[str, Any], settings: _Settings, method: str) -> list[Row]:
    """List the rows on problems."""
    if method == "spc":
        steps = f"steps of {settings.text('task')}"
        return [Row("program pool", steps), Row("training problems", steps), Row("data order", "as collected")]
    if method in _PROPOSING:
        return [
            Row("program pool", "what it proposes"),
            Row("training problems", "what it proposes"),
            Row("data order", "as proposed"),
        ]
    pool = _Settings(document.get("pool"))
    rows = [Row("data order", settings.text("data_order", "shuffled"))]
    problems = _pool_row("training problems", pool, "problems")
    programs = _pool_row("program pool", pool, "programs") or (problems and replace(problems, name="program pool"))  # of other tasks
    return [*rows, *(row for row in (programs, problems) if row is not None)]


def _pool_row(name: str, pool: _Settings, what: str) -> Row | None:
    digest, number = pool.text(f"{what}_checksum"), pool.whole(what)
    if digest is None or number is None:
        return None
    return Row(name, f"{pool.text('task') or 'unnamed'}: {number:,} {what} ({digest[:12]})", same_by=digest)


def _counts(settings: _Settings, method: str, sums: Mapping[str, float], steps: int) -> list[Row]:
    """List the rows on numbers of steps, problems, completions and tokens."""
    planned = settings.whole("steps")
    updates = settings.whole("num_iterations") or 1
    problems, each, proposals, most = _per_step(settings, method)
    per_step = problems * each if problems is not None and each is not None else None
    completions = _happened(sums, "completions_trained")
    if completions is None and method in ("sft", "rlvr") and per_step is not None and steps:
        completions = per_step * steps  # runs of earlier versions count none
    sampled = 0 if method == "sft" else _happened(sums, "tokens_sampled")
    if sampled is None and method == "rlvr":
        sampled = _happened(sums, "tokens")
    learned = _happened(sums, "tokens_with_gradient")
    if learned is None and method == "sft":
        learned = _happened(sums, "tokens")
    proposed = _happened(sums, "proposals_trained") if method in _PROPOSING else 0 if steps else None
    made = per_step * planned if per_step is not None and planned is not None else None
    rows = [
        Row("optimizer steps", planned * updates if planned is not None else None, steps * updates if steps else None),
        Row("problems a step", _at_most(problems, most)),
        Row("completions a problem", each),
        Row("completions trained on", _at_most(made, most), completions),
        Row("of them proposals", proposals * planned if proposals is not None and planned is not None else None, proposed),
        Row("tokens sampled", 0 if method == "sft" else None, sampled if steps else None),
        Row("tokens with gradient", None, learned),
    ]
    return _without_proposals(rows, problems, planned, steps) if method == "selfplay" and proposals == 0 else rows


def _without_proposals(rows: list[Row], problems: int | None, planned: int | None, steps: int) -> list[Row]:
    """Note in the rows of self-play that does not train its proposer what they would be with the proposals, one for each problem."""
    if problems is None:
        return rows
    more = {"completions a problem": 1, "completions trained on": problems * (steps or planned or 0)}
    return [replace(row, otherwise=row.value + more[row.name]) if row.name in more and isinstance(row.value, int) else row for row in rows]


def _per_step(settings: _Settings, method: str) -> tuple[int | None, int | None, int | None, bool]:
    """Return planned problems a step, completions a problem, proposals a step that are trained on, and whether these are the most."""
    if method == "sft":
        return settings.whole("batch_size"), 1, 0, False
    if method == "spc":  # as many steps are imitated as sampled ones are trained on
        turns, imitates = settings.whole("batch_size"), settings.number("sft_weight")
        at_most = settings.text("play") == "online" or settings.text("frozen") != "none"
        return (None if turns is None or imitates is None else turns * (1 + bool(imitates))), 1, 0, at_most
    prompts, group = settings.whole("prompts_per_step"), settings.whole("group_size")
    hints, hinted = settings.whole("num_hints"), settings.whole("hinted_samples")
    if method == "seirenes":
        each = None if group is None or hints is None or hinted is None else group + hints * (1 + hinted)
        return prompts, each, 0, settings.text("adversary") != "none"
    if method == "pasodoble":
        return _per_step_of_claims(settings, prompts, group)
    if method not in ("selfplay", "populora") or prompts is None or group is None:
        return prompts, group, 0 if method == "rlvr" else None, False
    problems = prompts * len(settings.texts("task_types"))
    trained = settings.text("proposer") == "trained"
    answers = settings.whole("solver_samples") or group
    at_most = method == "selfplay" and settings.text("solver_batch", "new") != "max_new"
    return problems, answers + trained, problems if trained else 0, at_most


def _per_step_of_claims(settings: _Settings, prompts: int | None, group: int | None) -> tuple[int | None, int | None, int | None, bool]:
    """Return the same of PasoDoble, with a claim for each proposal where this is a turn of its own, as it is for programs."""
    proposals = settings.whole("proposals_per_passage")
    if prompts is None or group is None or proposals is None:
        return None, None, None, True
    trained = settings.text("proposer") == "trained"
    claims = settings.text("truth") == "claim"
    return prompts * proposals, group + (1 + claims if trained else 0), prompts * proposals if trained else 0, True


def _at_most(value: int | None, most: bool) -> Cell:
    return f"at most {value:,}" if most and value is not None else value


def _happened(sums: Mapping[str, float], name: str) -> int | None:
    return int(sums[name]) if sums.get("steps") and name in sums else None


def _objective(settings: _Settings, method: str) -> list[Row]:
    """List the rows on rewards, advantages and the loss."""
    rows = [Row("loss aggregation", settings.text("loss_aggregation"))]
    if method == "sft":
        return [*rows, *(Row(name, "none") for name in ("reward", "estimator", "baseline", "further terms of the loss"))]
    estimator = settings.text("advantage")
    cells = method == "selfplay" or settings.text("advantage_cells", "batch") == "role-task"
    baseline = BASELINES.get(estimator or "")
    if method == "spc":
        return [*rows, *_objective_of_spc(settings)]
    reward = "of the task, such as 1 for a correct answer"
    if settings.text("solver_truth") == "majority":
        reward = "1 for the most frequent answer of the group"
    if method == "pasodoble":
        reward = f"1 for the answer of the {settings.text('truth')}"
    wrong, unreadable = settings.number("wrong_answer_reward"), settings.number("format_error_reward")
    if wrong or unreadable:
        reward += f"; {wrong or 0:g} for a wrong one, {unreadable or 0:g} for one that cannot be read"
    if baseline is not None:
        rows.append(Row("baseline", baseline.format(cell="each role and task type" if cells else "the batch")))
    return [*rows, Row("reward", reward), Row("estimator", estimator), Row("further terms of the loss", _terms(settings))]


def _objective_of_spc(settings: _Settings) -> list[Row]:
    terms, weight = _terms(settings), settings.number("sft_weight")
    low, high = settings.number("clip_ratio_low"), settings.number("clip_ratio_high")
    if terms is not None and weight is not None:
        ratio = f"ratio of completions to the base, clipped at 1 - {low or 0:g} and 1 + {high or 0:g}"
        own = [ratio] if settings.text("play") == "offline" else []
        own += [f"imitated steps {weight:g}"] if weight else []
        terms = ", ".join([*own, *([] if terms == "none" else [terms])]) or "none"
    estimator = settings.text("advantage")
    baseline = BASELINES.get(estimator or "")
    return [
        Row("reward", "1 and -1: what one player wins the other loses"),
        Row("estimator", estimator),
        Row("baseline", None if baseline is None else baseline.format(cell="each role")),
        Row("further terms of the loss", terms),
    ]


def _terms(settings: _Settings) -> str | None:
    """Name the terms of the loss beside the policy gradient; those that do nothing in one update are left out."""
    names = {"kl_coef": "KL to the base", "entropy_coef": "entropy bonus", "clip_cov": "Clip-Cov", "kl_cov": "KL-Cov"}
    values = {name: settings.number(name) for name in names}
    if values["kl_coef"] is None:
        return None
    terms = [f"{names[name]} {value:g}" for name, value in values.items() if value]
    if (settings.whole("num_iterations") or 1) > 1:
        low, high, dual = (settings.number(name) for name in ("clip_ratio_low", "clip_ratio_high", "clip_ratio_c"))
        terms.append(f"ratio clipped at 1 - {low or 0:g} and 1 + {high or 0:g}" + (f", dual clip {dual:g}" if dual else ""))
    return ", ".join(terms) or "none"


def _optimizer(document: Mapping[str, Any], settings: _Settings) -> list[Row]:
    """List the rows on the optimizer, dtypes and the base."""
    own = _Settings(document)
    schedule, warmup = settings.text("lr_scheduler"), settings.whole("warmup_steps")
    betas = [settings.number(name) for name in ("adam_beta1", "adam_beta2")]
    decay, norm = settings.number("weight_decay"), settings.number("max_grad_norm")
    optimizer = None
    if None not in (*betas, decay, norm):
        of = " of matrices" if decay and settings.number("decay_matrices_only") else ""
        optimizer = f"AdamW, betas {betas[0]:g} and {betas[1]:g}, weight decay {decay:g}{of}, gradient norm at most {norm:g}"
    checksums = document.get("checksums")
    checksum = _Settings(checksums).text("base")
    model = own.text("model")
    compute = own.text("compute_dtype") or (None if settings.text("compute_dtype") == "auto" else settings.text("compute_dtype"))
    return [
        Row("learning rate", settings.number("learning_rate")),
        Row("schedule", f"{schedule}, {warmup} steps of warm-up" if schedule is not None and warmup is not None else None),
        Row("optimizer", optimizer),
        Row("master dtype", own.text("master_dtype") or settings.text("master_dtype")),
        Row("compute dtype", compute),
        Row("storage dtype", own.text("storage_dtype") or own.text("master_dtype")),
        Row("base", f"{model} ({checksum[:12]})" if model and checksum else None, same_by=checksum or ""),
    ]


def _sampling(settings: _Settings, method: str) -> list[Row]:
    """List the rows on sampling, and on the game."""
    rows = [Row("longest completion", settings.whole("max_new_tokens"))]
    if method == "sft":
        rows.append(Row("sampling temperature", "none"))
    elif (temperature := settings.number("temperature")) is not None:
        top_p, top_k = settings.number("top_p"), settings.whole("top_k")
        more = (f", top-p {top_p:g}" if top_p is not None and top_p < 1 else "") + (f", top-k {top_k}" if top_k else "")
        rows.append(Row("sampling temperature", f"{temperature:g}{more}"))
    if method == "seirenes":
        return [*rows, Row("longest proposal", "none"), Row("proposer", "none"), _streams(settings)]
    if method == "spc":
        frozen = settings.text("frozen")
        trained = {"none": "both trained", "generator": "generator frozen", "critic": "critic frozen"}.get(frozen or "")
        return [*rows, Row("longest proposal", settings.whole("max_step_tokens")), Row("proposer", trained), _game_of_spc(settings)]
    if method not in _PROPOSING:
        return [*rows, *(Row(name, "none") for name in ("longest proposal", "proposer", "game"))]
    return [
        *rows,
        Row("longest proposal", settings.whole("max_proposal_tokens")),
        Row("proposer", settings.text("proposer")),
        {"pasodoble": _game_of_claims, "populora": _game_of_populations}.get(method, _game)(settings),
    ]


def _game_of_spc(settings: _Settings) -> Row:
    """Describe the settings of SPC that are in no other row."""
    play, rounds, attempts = settings.text("play"), settings.whole("rounds"), settings.whole("attempts")
    if play is None:
        return Row("game")
    parts = [f"{rounds} rounds of {attempts} attempts, each from the {settings.text('round_start')}"] if play == "offline" else [play]
    parts.append(f"share of right steps {settings.number('right_steps') or 0:g}, opponents {settings.text('opponents')}")
    parts.append(f"role weights {settings.text('role_weights')}")
    if not (settings.text("task") or "").startswith("lab"):
        least, most = settings.number("right_at_least"), settings.number("wrong_at_most")
        parts.append(f"{settings.whole('completions')} completions, right at least {least or 0:g}, altered at most {most or 0:g}")
    return Row("game", "; ".join(parts))


def _game_of_claims(settings: _Settings) -> Row:
    """Describe the settings of PasoDoble that are in no other row."""
    reward = settings.text("proposer_reward")
    if reward is None:
        return Row("game")
    parts = [f"proposer rewarded by {reward}, {settings.number('invalid_proposal_reward') or 0:g} if invalid, diversity "]
    parts[0] += settings.text("diversity") or "unknown"
    parts += [f"passage {settings.text('passage')}", f"truth {settings.text('truth')}", f"players {settings.text('players')}"]
    schedule = settings.text("player_schedule")
    if schedule == "offline":
        schedule += f" ({settings.whole('proposer_updates')} and {settings.whole('solver_updates')} updates)"
    parts.append(f"schedule {schedule}")
    low, high = settings.number("lowest_rate"), settings.number("highest_rate")
    parts.append(f"solver trains on solve rates between {low or 0:g} and {high or 0:g}, rewarded by {settings.text('solver_reward')}")
    return Row("game", "; ".join(parts))


def _game_of_populations(settings: _Settings) -> Row:
    """Describe the settings of PopuLoRA that are in no other row: those of self-play, and of the populations."""
    game, population = _game(settings), settings.text("population")
    if game.planned is None or population is None:
        return Row("game")
    rank, alpha = settings.whole("lora_rank"), settings.number("lora_alpha")
    parts = [f"{settings.whole('teachers')} teachers, {settings.whole('students')} students" if population == "separate" else "one adapter"]
    parts[0] += f" of rank {rank}, alpha {alpha or 2 * (rank or 0):g}"
    if population == "separate":
        parts.append(f"pairing {settings.text('pairing')}")
        every, share = settings.whole("evolve_every"), settings.number("evolved_share")
        parts.append(f"{share or 0:g} replaced every {every} steps by {' '.join(settings.texts('operators'))}" if every else "no evolution")
    parts.append(f"teachers' estimator {settings.text('teacher_advantage')}")
    return Row("game", "; ".join([*parts, str(game.planned).rpartition("; ")[0], "buffer fills up the students' tasks"]))


def _game(settings: _Settings) -> Row:
    """Describe the settings of self-play that are in no other row."""
    reward = settings.text("proposer_reward")
    if reward is None:
        return Row("game")
    bonuses = settings.texts("proposer_bonuses")
    scale, invalid = settings.number("bonus_scale"), settings.number("invalid_proposal_reward")
    parts = [f"proposer rewarded by {reward}, {invalid or 0:g} if invalid"]
    if bonuses:
        parts.append(f"bonuses {' '.join(bonuses)} ({settings.text('bonus_combination')}, scale {scale or 0:g})")
    parts.append(" ".join(settings.texts("task_types")))
    for name, what in (("num_references", "references"), ("buffer_size", "tasks in the buffer"), ("num_seed_tasks", "of them seeded")):
        parts.append(f"{settings.whole(name)} {what}")
    if leak := settings.number("gate_leak"):
        parts.append(f"invalid tasks admitted with probability {leak:g}")
    parts.append(f"solver trains on {settings.text('solver_batch', 'new')} tasks, {settings.whole('solver_delay')} steps later")
    return Row("game", "; ".join(parts))


def _streams(settings: _Settings) -> Row:
    """Describe the settings of Seirênes that are in no other row."""
    adversary, reward = settings.text("adversary"), settings.text("adversary_reward")
    if adversary is None or reward is None:
        return Row("game")
    number, longest, answers = (settings.whole(name) for name in ("num_hints", "max_hint_tokens", "hinted_samples"))
    parts = [f"{settings.whole('group_size')} clean answers, {settings.text('clean_answers')}"]
    if adversary != "none":
        invalid = settings.number("invalid_hint_reward") or 0
        parts.append(f"{number} hints of at most {longest} tokens, {answers} answers under each")
        parts.append(f"{adversary} adversary rewarded by {reward}, {invalid:g} if invalid")
    weights = [settings.number(f"{name}_weight") or 0 for name in ("solver", "adversary", "hinted")]
    parts.append("weights " + " ".join(f"{weight:g}" for weight in weights))
    waiting, steps = settings.whole("waiting_groups"), settings.whole("waiting_steps")
    parts.append(f"{settings.number('trained_share') or 0:g} of the groups trained on, {waiting} wait for {steps} steps")
    parts.append(f"mastered after {settings.whole('mastered_after')} visits, then asked at {settings.number('mastered_rate') or 0:g}")
    return Row("game", "; ".join(parts))


def compare(tables: Sequence[Matching]) -> list[Compared]:
    """Compare the tables of several runs, row by row.

    A row differs by definition if no two runs of the same kind differ in it, and of each two that do, one is settled by its method or
    control, and not the other in the same way. Rows of ``OUTCOMES`` always do. It is unknown if a run does not say it, unless others
    differ without it.
    """
    found = []
    for rows in zip(*(table.rows for table in tables), strict=True):
        values = [row.value for row in rows]
        known = [(table.kind, row) for table, row in zip(tables, rows, strict=True) if row.value is not None]
        differing = [pair for pair in combinations(known, 2) if _key(pair[0][1]) != _key(pair[1][1])]
        free = [pair for pair in differing if not _is_settled(*pair)]
        if free:
            found.append(Compared(rows[0].name, values, DIFFERS))
        elif len(known) < len(rows):
            found.append(Compared(rows[0].name, values, UNKNOWN))
        elif differing:
            reasons = dict.fromkeys(f"{kind}: {row.defined}" for pair in differing for kind, row in pair if row.defined)
            why = BY_POLICY if rows[0].name in OUTCOMES and not reasons else "; ".join(reasons)
            found.append(Compared(rows[0].name, values, DEFINED, why))
        else:
            found.append(Compared(rows[0].name, values, SAME))
    return found


def _key(row: Row) -> Cell:
    return row.same_by or row.value


def _is_settled(one: tuple[str, Row], other: tuple[str, Row]) -> bool:
    """Whether a difference of two rows is one by definition: what is settled alike in both must agree."""
    if one[1].name in OUTCOMES:
        return True
    return one[0] != other[0] and one[1].defined != other[1].defined and (_explains(one[1], other[1]) or _explains(other[1], one[1]))


def _explains(row: Row, other: Row) -> bool:
    return bool(row.defined) and (row.otherwise is None or row.otherwise == other.value)


def contrast(one: Matching, other: Matching) -> Contrast:
    """Say what two runs differ in."""
    rows = compare([one, other])
    named = {status: [row.name for row in rows if row.status == status] for status in (DIFFERS, DEFINED, UNKNOWN)}
    return Contrast((one.kind, other.kind), named[DIFFERS], named[DEFINED], named[UNKNOWN], one.seed != other.seed)

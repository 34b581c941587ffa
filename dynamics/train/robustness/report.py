"""The robustness gaps of a run of Seirênes, and of other models on its problems and hints.

The problems are drawn again by the settings of the run, and the hints are those of its ``robustness.jsonl``. Both may be a stranger's:
hints are read again as those of a model are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from dynamics.errors import InputError, printable
from dynamics.io.json_lines import read_json_lines
from dynamics.io.validation import converted, within_bounds
from dynamics.runs.directory import RunDirectory
from dynamics.train.games.seirenes_settings import SeirenesConfig

if TYPE_CHECKING:
    from dynamics.train.games.hints import HintForm
    from dynamics.train.games.robustness import Answers, FixedHint, Gap
    from dynamics.train.tasks.problem import Question

SCHEMA = "dynamics.robustness/1"
#: rows that are read, and answers of one row
MOST, MOST_SAMPLES = 100_000, 10_000


class _Row(msgspec.Struct):
    """A row of ``robustness.jsonl``."""

    model: str
    problem: str
    kind: str
    hint: str
    samples: int
    correct: int
    temperature: float
    true: bool | None = None


def of_run(path: Path, models: Sequence[str] = (), progress: Callable[[int, int], None] | None = None) -> list[Gap]:
    """Compute the gaps of base and trained model of a run, and of further models on the same problems and hints.

    Parameters
    ----------
    path : directory of a finished run of Seirênes.
    models : run directories of ``dynamics.train``, of which the last checkpoint is asked, or what ``--model`` takes.
    progress : called with (models asked, all).

    Raises
    ------
    InputError : the run has no ``robustness.jsonl``, its problems are no longer those, or a model cannot read them.
    """
    from dynamics.train import built_in, policy, sources
    from dynamics.train.games import robustness
    from dynamics.train.games.hints import form_of
    from dynamics.train.tasks.prompt_formats import language_of

    rows = read_answers(path / robustness.FILE)
    if not models:
        return robustness.gaps(rows)
    document = RunDirectory(path).read_run()
    if document.get("method") != "seirenes":
        raise InputError(f"{printable(path / 'run.json')}: is a run of {printable(document.get('method'), 40)}; needs one of seirenes")
    config = converted(document.get("config"), SeirenesConfig, printable(path / "run.json"))
    names = {name: _checkpoint(name) for name in models}
    if taken := {row.model for row in rows} & set(names):
        raise InputError(f"{printable(min(taken))}: is the name of a model of {printable(path)}; give the path of the other one")
    compute = str(document.get("compute_dtype") or config.compute_dtype)
    for number, (name, checkpoint) in enumerate(names.items()):
        loaded = policy.load(built_in.find(checkpoint), None, config.master_dtype, compute)
        speaks = language_of(loaded.tokenizer)
        source, form = sources.find(config.task, speaks, config.allow_unconfined), form_of(speaks, loaded.tokenizer)
        questions = robustness.held_out(source, form, config.robustness_problems, config.seed)
        hints = read_hints(rows, questions, form, path / robustness.FILE)
        rows += robustness.ask(loaded, form, questions, hints, name, config.robustness_samples, config)
        if progress:
            progress(number + 1, len(names))
    return robustness.gaps(rows)


def read_answers(path: Path) -> list[Answers]:
    """Read ``robustness.jsonl``."""
    from dynamics.train.games.robustness import Answers

    if not path.is_file():
        raise InputError(f"{printable(path)}: is not there; a run of seirenes writes it at its end, with --robustness-problems above 0")
    found = []
    with within_bounds(path):
        for number, line in read_json_lines(path):
            where = f"{printable(path)}, line {number}"
            row = converted(line, _Row, where)
            if not 0 <= row.correct <= row.samples <= MOST_SAMPLES or not row.samples:
                raise InputError(f"{where}: has {row.correct} right answers of {row.samples}; expected 0 to {MOST_SAMPLES:,} of at least 1")
            found.append(Answers(row.model, row.problem, row.kind, row.hint, row.true, row.samples, row.correct, row.temperature))
            if len(found) > MOST:
                raise InputError(f"{printable(path)}: has over {MOST:,} rows, more than are read")
    if not found:
        raise InputError(f"{printable(path)}: has no rows")
    return found


def read_hints(rows: Sequence[Answers], questions: Sequence[Question], form: HintForm, path: Path) -> list[FixedHint]:
    """Return the hints of the first model's rows, read again as if a model had written them."""
    from dynamics.train.games.robustness import FixedHint

    by_id = {question.id: question for question in questions}
    found = []
    for row in rows:
        if row.model != rows[0].model or not row.kind:
            continue
        if row.problem not in by_id:
            raise InputError(f"{printable(path)}: {printable(row.problem, 80)} is not among the problems of the run; was its task changed?")
        hint = form.read(by_id[row.problem], form.written(row.hint))
        if hint.fault or hint.text != row.hint:
            why = hint.fault or "it would be shown otherwise"
            raise InputError(f"{printable(path)}: the hint {printable(row.hint, 60)!r} cannot be shown to this model ({why})")
        found.append(FixedHint(row.kind, row.problem, hint.text, row.true))
    return found


def _checkpoint(name: str) -> str:
    """Return the last checkpoint of a run directory, or the name as it is."""
    folder = Path(name)
    if not (folder / "run.json").is_file():
        return name
    found = sorted(one for one in (folder / "checkpoints").glob("step_*") if one.is_dir())
    if not found:
        raise InputError(f"{printable(name)}: has no checkpoints to ask")
    return str(found[-1])


def to_dict(gaps: Sequence[Gap], path: Path) -> dict[str, Any]:
    """Build the JSON document."""
    return {"schema": SCHEMA, "run": str(path), "gaps": [gap.to_json() for gap in gaps]}

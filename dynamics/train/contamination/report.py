"""What a run on the laboratory was trained on, against every problem set: ``contamination.json`` of a run directory.

Everything is read from the run directory: problems and proposals of RLVR and self-play from ``rollouts/``, problems of SFT by drawing its
batches again, which is refused if the problems are not those of the run. So the report of a resumed run is that of one that was not
stopped, and ``python -m dynamics.train.contamination RUN`` makes that of any run, finished or not.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from dynamics.errors import InputError, printable
from dynamics.io.json_lines import read_json_lines
from dynamics.io.validation import converted
from dynamics.runs.directory import RunDirectory
from dynamics.train.lab.operations import Value, kind_of, read
from dynamics.train.lab.problems import HELD_OUT, contamination, problem_sets
from dynamics.train.lab.programs import SPLITS, Program, labelled, normal_form, read_program, split_of

SCHEMA = "dynamics.contamination/1"
FILE = "contamination.json"
#: what a run was trained on: problems that are to be solved, and proposals of self-play
KINDS = ("problems", "valid proposals", "held-out proposals", "other refused proposals")

Problem = tuple[Program, Value]


class _Rollout(msgspec.Struct):
    """The fields of a rollout that are read."""

    role: str = "solver"
    task: str = ""
    problem: str = ""
    program: str = ""
    input: str = ""
    completion: str = ""
    valid: bool = False
    reason: str = ""


class _Step(msgspec.Struct):
    step: int


def of_run(path: Path) -> dict[str, Any]:
    """Report on a run.

    Parameters
    ----------
    path : run directory.

    Returns
    -------
    The document ``dynamics.contamination/1``, see docs/laboratory.md.

    Raises
    ------
    InputError : the folder holds no run on the laboratory, or what the run was trained on cannot be told.
    """
    directory = RunDirectory(path)
    document = directory.read_run()
    found: dict[str, list[Problem]] = {kind: [] for kind in KINDS}
    unknown: Counter[str] = Counter()
    proposals: list[tuple[_Rollout, Program | None]] = []
    for where, row in _of_sft(path, document) if document.get("method") == "sft" else _rollouts(path):
        if row.role == "proposer":
            problem = _proposed(row)
            proposals.append((row, problem[0] if problem else None))
            kind = KINDS[1] if row.valid else KINDS[2] if _held_out(row) else KINDS[3]
        else:
            problem, kind = _problem(row.program, row.input, where) if row.program else None, KINDS[0]
        if problem is None:
            unknown[kind] += 1
        else:
            found[kind].append(problem)
    if not found["problems"]:
        raise InputError(f"{printable(path)}: is no run on the laboratory: no problem that it was trained on names its program")
    learns = (document.get("config") or {}).get("proposer", "trained") == "trained"
    trained = [
        {"what": kind, "gradient": kind == "problems" or learns, **_counts(found[kind]), "without_program": unknown[kind]}
        for kind in KINDS
        if found[kind] or unknown[kind]
    ]
    split = {"proposed": _by_split(proposals)} if proposals else {}
    return {"schema": SCHEMA, "method": document.get("method"), "trained": trained} | split


def write(path: Path) -> dict[str, Any]:
    """Report on a run in its ``contamination.json``."""
    from dynamics.io.atomic import replacing
    from dynamics.io.json import to_json

    report = of_run(path)
    with replacing(path / FILE) as temporary:
        temporary.write_text(to_json(report), encoding="utf-8")
    return report


def _counts(problems: Sequence[Problem]) -> dict[str, Any]:
    return {
        "items": len(problems),
        "programs": len({normal_form(program) for program, _ in problems}),
        "sets": [asdict(row) for row in contamination(problems, problem_sets())],
    }


def _problem(label: str, value: str, where: str) -> Problem:
    given = read(value)
    try:
        program = labelled(label)
    except ValueError:
        raise InputError(f"{where}: {printable(label, 60)!r} is no program of the laboratory; restore the file from a copy") from None
    if given is None:
        raise InputError(f"{where}: {printable(value, 60)!r} is no input of the laboratory; restore the file from a copy")
    return program, given


def _rollouts(path: Path) -> Iterator[tuple[str, _Rollout]]:
    """Read the problems and proposals of all steps; the answers to a problem, which follow each other, are one item."""
    files = RunDirectory(path).step_files("rollouts").values()
    if not files:
        raise InputError(f"{printable(path / 'rollouts')}: has no rollouts, so it cannot be told what the run was trained on")
    for file in files:
        before = None
        for number, line in read_json_lines(file):
            where = f"{printable(file)}, line {number}"
            row = converted(line, _Rollout, where)
            if row.role == "proposer" or row.problem != before:
                yield where, row
            before = None if row.role == "proposer" else row.problem


def _of_sft(path: Path, document: dict[str, Any]) -> Iterator[tuple[str, _Rollout]]:
    """Draw the problems of SFT's batches again."""
    from dynamics.train import data_order, sources
    from dynamics.train.config import SFTConfig
    from dynamics.train.lab.tokenizer import build_tokenizer
    from dynamics.train.methods.sft import encode

    config = converted(document.get("config"), SFTConfig, printable(path / "run.json"))
    questions = sources.find(config.task, "lab").questions("training", config.num_problems, config.seed)
    digest = hashlib.sha256()
    for tokens in itertools.chain(*encode(build_tokenizer(), questions)):
        digest.update(tokens.tobytes() + b"\n")
    if digest.hexdigest() != (document.get("checksums") or {}).get("problems"):
        raise InputError(
            f"{printable(path)}: its problems are not those that this version has; report on it with the version that trained it"
        )
    file = path / "metrics.jsonl"
    for number, line in read_json_lines(file, unfinished=[]) if file.exists() else ():
        step = converted(line, _Step, f"{printable(file)}, line {number}").step
        if step == 0:  # validation before training
            continue
        for index in data_order.of_step(config, step, config.batch_size, len(questions)):
            yield questions[index].id, _Rollout(program=questions[index].program, input=questions[index].input)


def _held_out(row: _Rollout) -> bool:
    return row.reason.startswith(HELD_OUT)


def _proposed(row: _Rollout) -> Problem | None:
    """Return program and input of a proposal for deduction or abduction; None if it has none. One for induction is for a given program."""
    program_text, _, value_text = row.completion.partition("<in>")
    value = None if row.task == "induction" else read(value_text)
    program = None if value is None else read_program(program_text, kind_of(value))
    return None if program is None else (program, value)


def _by_split(proposals: Sequence[tuple[_Rollout, Program | None]]) -> dict[str, Any]:
    """Count proposals by the split of their programs."""
    counted = [(row, program) for row, program in proposals if row.task != "induction"]
    rows = []
    for split in SPLITS:
        of_split = [(row, program) for row, program in counted if program is not None and split_of(program) == split]
        rows.append(
            {
                "split": split,
                "proposals": len(of_split),
                "valid": sum(row.valid for row, _ in of_split),
                "held_out": sum(_held_out(row) for row, _ in of_split),
                "programs": len({normal_form(program) for _, program in of_split if program}),
            }
        )
    held_out = Counter(row.reason.removeprefix(HELD_OUT) for row, _ in counted if _held_out(row))
    return {
        "proposals": len(counted),
        "without_program": sum(program is None for _, program in counted),
        "splits": rows,
        "held_out": {name: held_out[name] for name in problem_sets() if held_out[name]},
        "for_induction": len(proposals) - len(counted),
    }

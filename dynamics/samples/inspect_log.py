"""Inspect's logs: ``.eval``, a zip file whose members may be compressed with zstd, and ``.json``. Each epoch of a problem is a sample.

A score of NaN is how Inspect marks a sample that a scorer left unscored. Python's json module writes it, and infinities in metadata, as no
other parser reads them, so a part of a log that holds one is parsed by that module.
"""

from __future__ import annotations

import json
import math
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from dynamics.errors import InputError, printable
from dynamics.io.validation import Scalar, mismatch
from dynamics.samples.row import (
    NO_ANSWER,
    SCORED,
    TIMED_OUT,
    UNSCORED,
    Batches,
    Columns,
    Row,
    Rows,
    SourceNotes,
    batches,
    label,
    listed,
    score,
)

NAME = "Inspect log"
#: limits on the decompressed size of a member, because a zip file from an untrusted source can declare any size, and on their number
LARGEST, MOST_MEMBERS = 1 << 28, 1_000_000


class Score(msgspec.Struct):
    """What a scorer said of a sample."""

    value: Scalar | dict[str, Any] | list[Any] = None
    answer: Any = None


class Sample(msgspec.Struct):
    """The fields of a sample that are read."""

    id: Scalar = None
    epoch: Scalar = 1
    scores: dict[str, Score | Scalar | list[Any]] | None = None
    error: Any = None
    limit: Any = None


class Settings(msgspec.Struct):
    """The fields of the settings of generation that are read."""

    temperature: float | msgspec.UnsetType | None = msgspec.UNSET


class Evaluation(msgspec.Struct):
    """The fields of the description of an evaluation that are read."""

    task: Scalar = None
    model: Scalar = None
    model_generate_config: Settings | None = None


class Plan(msgspec.Struct):
    """The fields of a plan that are read."""

    config: Settings | None = None


class Header(msgspec.Struct):
    """The fields of the header of a log that are read."""

    eval: Evaluation | None = None
    plan: Plan | None = None


def read_zip(path: Path, columns: Columns, notes: SourceNotes) -> tuple[str, Batches]:
    """Read an ``.eval`` log; return the name of the format and the samples."""
    archive = _archive(path)
    members = archive.namelist()
    if len(members) > MOST_MEMBERS:
        raise InputError(f"{printable(path)}: a zip of over {MOST_MEMBERS:,} files, which no Inspect log is")
    names = sorted(name for name in members if name.startswith("samples/") and name.endswith(".json"))
    if "header.json" not in members and "_journal/start.json" not in members:
        raise InputError(f"{printable(path)}: a zip, but not an Inspect log: it has neither header.json nor _journal/start.json")
    header = _member(archive, "header.json" if "header.json" in members else "_journal/start.json", Header, path)
    if "header.json" not in members:
        notes.remarks.append("the evaluation was not finished: only the samples that were are read")
    summaries = _member(archive, "summaries.json", list[Sample], path) if "summaries.json" in members else []
    # the summaries hold the verdicts of all samples in a small member; the samples hold whole transcripts
    samples = summaries if len(summaries) == len(names) else (_member(archive, name, Sample, path) for name in names)
    return NAME, batches(_rows(path, header, samples, columns, notes))


def read_json(path: Path, outer: dict[str, Any], columns: Columns, notes: SourceNotes) -> tuple[str, Batches]:
    """Read a ``.json`` log from the fields of its document; return the name of the format and the samples."""
    parts = {}
    for name, kind in (("eval", Evaluation | None), ("plan", Plan | None), ("samples", list[Sample])):
        if name not in outer:
            continue
        try:
            parts[name] = _decode(outer[name], kind)
        except msgspec.ValidationError as error:
            raise InputError(f"{printable(path)}, in its {name}{mismatch(error)}") from None
        except _UNREADABLE as error:
            raise InputError(f"{printable(path)}: is not laid out as an Inspect log: {printable(str(error), 80)}") from None
    samples = parts.pop("samples")
    return NAME, batches(_rows(path, Header(**parts), samples, columns, notes))


#: errors of ``_decode``
_UNREADABLE = (ValueError, RecursionError)


def _decode(text: Any, kind: Any) -> Any:
    """Decode JSON that may hold NaN and infinities into ``kind``."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.convert(json.loads(bytes(text)), kind)


def _zipfile() -> Any:
    """Import ``zipfile``, or before Python 3.14 its backport, which can read members compressed with zstd."""
    if sys.version_info >= (3, 14):
        return zipfile
    from backports.zstd import zipfile as backport

    return backport


def _archive(path: Path) -> zipfile.ZipFile:
    module = _zipfile()
    try:
        archive: zipfile.ZipFile = module.ZipFile(path)
    except (zipfile.BadZipFile, module.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{printable(path)}: the zip is damaged or cut short ({error}); copy it again") from None
    return archive


def _member(archive: zipfile.ZipFile, name: str, kind: Any, path: Path) -> Any:
    try:
        if archive.getinfo(name).file_size > LARGEST:
            raise InputError(
                f"{printable(path)}: its member {printable(name)} claims to unpack to more than {LARGEST >> 20} MiB; it is not read"
            )
        with archive.open(name) as member:
            text = member.read(LARGEST + 1)
        return _decode(text, kind)
    except InputError:
        raise
    except msgspec.ValidationError as error:
        raise InputError(f"{printable(path)}, member {printable(name)}{mismatch(error)}") from None
    except _UNREADABLE as error:
        raise InputError(
            f"{printable(path)}: its member {printable(name)} is not as an Inspect log has it: {printable(str(error), 80)}"
        ) from None
    except Exception as error:  # a damaged member: zlib, lzma, zstd, CRC, or an unknown method
        raise InputError(
            f"{printable(path)}: its member {printable(name)} cannot be read ({printable(str(error), 80)}); copy the file again"
        ) from None


def _rows(path: Path, header: Header, samples: Iterable[Sample], columns: Columns, notes: SourceNotes) -> Rows:
    evaluation, plan = header.eval or Evaluation(), header.plan or Plan()
    task = str(evaluation.task or "")
    model = evaluation.model
    given = [settings.temperature for settings in (evaluation.model_generate_config, plan.config) if settings]
    temperature = next((value for value in reversed(given) if value is not msgspec.UNSET), None)  # the plan's goes before the model's
    notes.fields = {"problem": "task and id", "sample": "epoch", "model": "eval.model"}
    chosen: list[str | None] = [columns.correct]
    scorers: dict[str, None] = {}

    def make() -> Iterator[Row]:
        for sample in samples:
            scores = sample.scores or {}
            scorers.update(dict.fromkeys(scores))
            if scores and chosen[0] is None:
                first = next(iter(scores))
                chosen[0] = first
                if len(scores) > 1:
                    others = listed(scores)
                    notes.remarks.append(f"verdict is that of scorer {printable(first)}; --correct takes another: {others}")
                if isinstance(samples, list) and (part := _only_part(samples, first)):
                    chosen[0] = f"{first}.{part}"
                    notes.remarks.append(f"of the values of its scorer, only {printable(chosen[0])} is ever a number")
            if chosen[0] is not None:
                notes.fields["correct"] = f"scorer {chosen[0]}"
            value, answer = _value(scores, chosen[0], path)
            where = f"{printable(path)}, sample {printable(sample.id, 40)} epoch {printable(sample.epoch, 40)}"
            verdict = score(value, where)
            verdict = verdict if math.isfinite(verdict) else math.nan
            no_answer = isinstance(value, str) and value.upper() == "N"
            timed_out = isinstance(sample.limit, (str, dict)) and "time" in str(sample.limit).lower()
            if math.isnan(verdict):
                status = UNSCORED
                notes.counts["samples without a score" + (": the sample ended in an error" if sample.error else "")] += 1
            else:
                status = NO_ANSWER if no_answer else TIMED_OUT if timed_out and verdict == 0 else SCORED
            problem = f"{task}/{label(sample.id)}" if task else label(sample.id)
            yield Row(problem, verdict, status, label(sample.epoch), answer, None, str(model) if model else None, temperature)
        if chosen[0] and scorers and not {chosen[0], chosen[0].partition(".")[0]} & set(scorers):
            raise InputError(f"{printable(path)}: has no scorer {printable(chosen[0])!r}; it has {listed(scorers)}")

    return make()


def _only_part(samples: list[Sample], scorer: str) -> str | None:
    """Return the key of a scorer's values that alone has numbers, because the others are all NaN; None if there is no such key."""
    scored: dict[str, bool] = {}
    for sample in samples:
        entry = (sample.scores or {}).get(scorer)
        value = entry.value if isinstance(entry, Score) else None
        if not isinstance(value, dict):
            if entry is not None:
                return None
            continue
        for key, part in value.items():
            scored[key] = scored.get(key, False) or not (part is None or (isinstance(part, float) and not math.isfinite(part)))
    keys = [key for key, is_scored in scored.items() if is_scored]
    return keys[0] if len(keys) == 1 else None


def _value(scores: dict[str, Any], chosen: str | None, path: Path) -> tuple[Any, str | None]:
    """Return the value of scorer ``chosen``, or of ``scorer.key`` if a scorer gives several values, and the extracted answer."""
    if not scores or chosen is None:
        return None, None
    name, key = chosen, None
    if name not in scores and "." in name:
        name, _, key = name.partition(".")
    if name not in scores:
        return None, None  # a sample that this scorer left out; a name that no sample has is refused at the end
    entry = scores[name]
    value, answer = (entry.value, entry.answer) if isinstance(entry, Score) else (entry, None)
    if isinstance(value, dict):
        if key is None:
            keys = listed(f"{name}.{part}" for part in value)
            raise InputError(f"{printable(path)}: scorer {printable(name)} gives several values; choose one with --correct: {keys}")
        value = value.get(key)
    return value, answer if isinstance(answer, str) and answer else None

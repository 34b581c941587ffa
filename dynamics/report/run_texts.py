"""Choose the texts of a run that models are run over: its own completions at the first and the last step, or given files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dynamics.descriptions import plural
from dynamics.errors import InputError, printable
from dynamics.report.completions import strings
from dynamics.rollouts import texts
from dynamics.rollouts.texts import Document
from dynamics.runs import RolloutFile, Run, read_rollouts

#: tokens of the texts that are chosen, and characters of a token where the number of tokens is not known
TOKENS, CHARACTERS = 16_000, 3
#: fewer texts are taken even if they have more tokens, but none of more than this share of the tokens
FEWEST, LONGEST = 4, 0.25
#: bytes of a file that is read for a few of its texts
LARGEST = 200_000_000


@dataclass(frozen=True)
class Chosen:
    """Texts to run models over.

    Attributes
    ----------
    documents : whose ``about`` says the ``part`` they are of, such as ``step 10``.
    files : where they come from.
    tokens : about how many tokens they have.
    available : number of texts in the files.
    notes : what could not be read, a line each.
    """

    documents: list[Document]
    files: list[Path]
    tokens: int
    available: int
    notes: list[str] = field(default_factory=list)


def choose(run: Run, given: Sequence[str] = (), seed: int = 0, tokens: int = TOKENS) -> Chosen:
    """Choose texts at random, as many of each part.

    Parameters
    ----------
    run : whose completions are taken if no files are given, or its texts if it kept no completions.
    given : files of texts.
    seed : of the choice.
    tokens : about how many tokens to choose.
    """
    notes: list[str] = []
    parts: dict[str, list[Document]] = {}
    files: list[Path] = []
    if given:
        sources = [(Path(path).name, Path(path)) for path in given]
    elif run.rollouts:
        sources = _ends(run.rollouts)
    else:
        sources = [(path.name, path) for path in run.texts]
    for part, path in sources:
        if found := _read(part, path, notes):
            parts.setdefault(part, []).extend(found)
            files.append(path)
    if not parts and run.rollouts and not given:
        parts, notes = _from_table(run, notes)
        files = [file.path for file in run.rollouts] if parts else []
    rng = np.random.default_rng(seed)
    chosen = [document for part in parts.values() for document in _some(part, tokens // len(parts), rng)]
    chosen = [replace(document, name=f"{document.about['part']}: {document.name}") for document in chosen]
    return Chosen(chosen, files, sum(map(length, chosen)), sum(map(len, parts.values())), notes)


def _ends(files: Sequence[RolloutFile]) -> list[tuple[str, Path]]:
    """List the files of the first and of the last step, of problems that are trained on if there are any."""
    trained = [file for file in files if not file.held_out] or list(files)
    steps = [file.step for file in trained if file.step is not None]
    if not steps:
        return [(trained[0].path.name, trained[0].path)]
    ends = dict.fromkeys((min(steps), max(steps)))
    return [(f"step {step:,}", file.path) for step in ends for file in trained if file.step == step]


def _read(part: str, path: Path, notes: list[str]) -> list[Document]:
    """Read the texts of a file; what is wrong with it becomes a note."""
    try:
        if path.is_file() and path.stat().st_size > LARGEST:
            notes.append(
                f"{printable(path)}: has over {LARGEST // 1_000_000} MB, too many to choose a few texts from; give others with --texts"
            )
            return []
        documents, _ = texts.read([path])
    except InputError as error:
        notes.append(str(error))
        return []
    except OSError as error:
        notes.append(f"{printable(path)}: {error.strerror or error}")
        return []
    return [replace(document, about={**document.about, "part": part}) for document in documents]


def _from_table(run: Run, notes: list[str]) -> tuple[dict[str, list[Document]], list[str]]:
    """Take the texts of completions whose files are in a trainer's own format from the table of completions; tokens are then made anew."""
    try:
        table, lost = read_rollouts(run)
    except InputError as error:
        return {}, [*notes, str(error)]
    table = table[table["step"].notna()]
    if table.empty:
        return {}, [*notes, *lost]
    parts: dict[str, list[Document]] = {}
    for step in dict.fromkeys((table["step"].min(), table["step"].max())):
        rows = table[table["step"] == step]
        part = f"step {int(step):,}" if step >= 0 else "completions"
        prompts, completions, roles = (strings(rows[name]) for name in ("prompt", "completion", "role"))
        parts[part] = [
            Document(f"completion {number + 1}", prompt, completion, about={"part": part, **({"role": role} if role else {})})
            for number, (prompt, completion, role) in enumerate(zip(prompts, completions, roles, strict=True))
            if completion and _encodes(prompt + completion)
        ]
    return {part: documents for part, documents in parts.items() if documents}, lost


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def length(document: Document) -> int:
    """Estimate the number of tokens of a document."""
    if document.ids is not None:
        return len(document.ids)
    characters = len(document.prompt) + len(document.response)
    characters += sum(len(str(message.get("content") or "")) for message in document.messages or ())
    return characters // CHARACTERS + 1


def _some(documents: Sequence[Document], budget: int, rng: np.random.Generator) -> list[Document]:
    """Choose documents at random until they have ``budget`` tokens; those that are much too long are left out if there are others."""
    lengths = [length(document) for document in documents]
    short = [index for index, size in enumerate(lengths) if size <= LONGEST * budget]
    candidates = short if len(short) >= FEWEST else sorted(range(len(documents)), key=lengths.__getitem__)[:FEWEST]
    chosen: list[int] = []
    total = 0
    for index in rng.permutation(candidates).tolist() if candidates else []:
        if len(chosen) >= FEWEST and total + lengths[index] > budget:
            break
        chosen.append(index)
        total += lengths[index]
    return [documents[index] for index in sorted(chosen)]


def of_vocabulary(documents: Sequence[Document], size: int) -> tuple[list[Document], list[str]]:
    """Leave out documents with token ids of at least ``size``, such as rows of padding that a policy has sampled; return also a note.

    If these are most of the documents, they belong to another model, and none is left out.
    """
    kept = [document for document in documents if document.ids is None or max(document.ids, default=0) < size]
    lost = len(documents) - len(kept)
    if not lost or 2 * lost > len(documents):
        return list(documents), []
    return kept, [f"{plural(lost, 'text')} with token ids outside the tokenizer's vocabulary of {size:,}: left out of the entropy"]


def described(chosen: Chosen) -> str:
    """Say how many texts were chosen, and of which parts."""
    parts = dict.fromkeys(str(document.about["part"]) for document in chosen.documents)
    some = "" if len(chosen.documents) == chosen.available else f" of {chosen.available:,}, chosen at random,"
    named = ", ".join(printable(part, 60) for part in parts)
    return f"{plural(len(chosen.documents), 'text')}{some} of {named}"

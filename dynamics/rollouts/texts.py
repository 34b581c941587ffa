"""Texts and rollouts to run a model over: plain text, JSON lines, Parquet tables, whatever wrote them.

A document is what was seen as one sequence: a prompt and a response, or one text. Token ids that a rollout recorded are kept and used as
they are; text is only tokenised where there are none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynamics.errors import InputError, shown

PROMPT = ("prompt", "input", "question", "instruction", "query")
RESPONSE = ("completion", "response", "output", "answer", "generation", "solution", "chosen")
TEXT = ("text", "content", "document")
#: keys that many records of a file share, of what a rollout was
ABOUT = ("step", "role", "task", "reward", "score", "temperature", "problem")


@dataclass(frozen=True)
class Document:
    """One sequence: texts ``prompt`` and ``response``, or chat ``messages``, or ``ids`` of which ``prompt_tokens`` are the prompt.

    ``about`` holds what else the record says: step, role, task, reward, temperature.
    """

    name: str
    prompt: str = ""
    response: str = ""
    messages: tuple[dict[str, Any], ...] | None = None
    ids: tuple[int, ...] | None = None
    prompt_tokens: int = 0
    about: dict[str, Any] = field(default_factory=dict)


def read(sources: Sequence[str | Path]) -> tuple[list[Document], list[str]]:
    """Documents of files and folders (a run directory: its ``rollouts/``), and remarks.

    Raises
    ------
    InputError : a file that cannot be read, or that has neither text nor tokens.
    """
    documents: list[Document] = []
    notes: list[str] = []
    for path in _files(sources):
        name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
        found = list(
            _parquet(path) if name.endswith(".parquet") else _json_lines(path) if name.endswith((".jsonl", ".ndjson")) else _plain(path)
        )
        empty = [document for document in found if not (document.prompt or document.response or document.messages or document.ids)]
        if empty:
            notes.append(f"{shown(path)}: {len(empty):,} empty texts are left out")
            found = [document for document in found if document not in empty]
        if not found:
            raise InputError(f"{shown(path)}: holds no text")
        documents += found
    return documents, notes


def _files(sources: Sequence[str | Path]) -> Iterator[Path]:
    for source in sources:
        path = Path(source)
        if path.is_file():
            yield path
        elif path.is_dir():
            inside = path / "rollouts" if (path / "rollouts").is_dir() else path
            kept = (".txt", ".md", ".jsonl", ".ndjson", ".parquet")
            files = sorted(file for file in inside.rglob("*") if file.is_file() and file.suffix in kept and file.name != "metrics.jsonl")
            if not files:
                raise InputError(f"{shown(inside)}: a folder without texts in it; expected {', '.join(kept)}")
            yield from files
        else:
            raise InputError(f"{shown(path)}: no such file or folder")


def _plain(path: Path) -> Iterator[Document]:
    from dynamics.io.compression import opened

    with opened(path) as stream:
        content = stream.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{shown(path)}: is not UTF-8 text at byte {error.start}; convert it first") from None
    if "\0" in text:
        raise InputError(f"{shown(path)}: is no text; expected text, JSON lines or Parquet")
    yield Document(path.stem, response=text if text.strip() else "")


def _json_lines(path: Path) -> Iterator[Document]:
    from dynamics.io.compression import lines, opened

    with opened(path) as stream:
        for number, line in lines(stream, path):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{shown(path)}, line {number}: is not JSON: {shown(str(error), 80)}") from None
            yield document(record, f"{path.stem}:{number}", f"{shown(path)}, line {number}")


def _parquet(path: Path) -> Iterator[Document]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        number = 0
        for batch in parquet.ParquetFile(path).iter_batches(1024):
            for record in batch.to_pylist():
                number += 1
                yield document(record, f"{path.stem}:{number}", f"{shown(path)}, row {number}")
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{shown(path)}: is damaged, or no Parquet file: {shown(str(error), 120)}") from None


def document(record: Any, name: str, where: str) -> Document:
    """The document of one record: tokens if it has them, then messages, then prompt and response, then one text."""
    if isinstance(record, str):
        return Document(name, response=record)
    if not isinstance(record, dict):
        raise InputError(f"{where}: is neither an object nor a text")
    about = {key: record[key] for key in ABOUT if isinstance(record.get(key), (str, int, float, bool))}
    if isinstance(record.get("id"), (str, int)):
        name = str(record["id"])
    if record.get("completion_ids") is not None:
        prompt, completion = _ids(record.get("prompt_ids") or [], where), _ids(record["completion_ids"], where)
        return Document(name, ids=prompt + completion, prompt_tokens=len(prompt), about=about)
    if record.get("token_ids") is not None:  # prime-rl's token exports: what is trained on is the response
        ids, mask = _ids(record["token_ids"], where), record.get("loss_mask")
        start = list(mask).index(True) if mask and True in mask else 0
        return Document(name, ids=ids, prompt_tokens=start, about=about)
    if isinstance(messages := record.get("messages"), list):
        return Document(name, messages=tuple(messages), about=about)
    prompt, response = _first(record, PROMPT), _first(record, RESPONSE)
    if isinstance(prompt, list) or isinstance(response, list):
        said = [*(prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}])]
        said += response if isinstance(response, list) else [{"role": "assistant", "content": response}] if response else []
        return Document(name, messages=tuple(said), about=about)
    if response is not None:
        return Document(name, prompt=str(prompt or ""), response=str(response), about=about)
    text = _first(record, TEXT)
    if text is None:
        text = prompt
    if text is None:
        there = ", ".join(shown(key, 40) for key in list(record)[:10])
        raise InputError(f"{where}: has no text: expected text, messages, prompt and completion, or their ids; it has {there or 'nothing'}")
    return Document(name, response=str(text), about=about)


def _first(record: dict[str, Any], names: Sequence[str]) -> Any:
    return next((record[name] for name in names if isinstance(record.get(name), (str, list))), None)


def _ids(values: Any, where: str) -> tuple[int, ...]:
    if not all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values):
        raise InputError(f"{where}: token ids must be whole numbers of at least 0")
    return tuple(values)

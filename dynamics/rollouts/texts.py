"""Readers of texts and rollouts for entropy traces: plain text, JSON lines and Parquet tables, of any tool.

A document is one sequence: a prompt and a response, or a text. Recorded token ids are used as given; text is tokenised only if there are
none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynamics.errors import InputError, printable
from dynamics.io.paths import choose_run, no_such_path, run_folders

SUFFIXES = (".txt", ".md", ".jsonl", ".ndjson", ".parquet")
PROMPT = ("prompt", "input", "question", "instruction", "query")
RESPONSE = ("completion", "response", "output", "answer", "generation", "solution", "chosen")
TEXT = ("text", "content", "document")
#: metadata keys of a rollout
ABOUT = ("step", "role", "task", "reward", "score", "temperature", "problem")


@dataclass(frozen=True)
class Document:
    """One sequence: texts ``prompt`` and ``response``, or chat ``messages``, or token ``ids``.

    Attributes
    ----------
    name : name of the document.
    prompt, response : texts; a plain text is a response without a prompt.
    messages : chat messages, each with role and content.
    ids : token ids, the first ``prompt_tokens`` of which are the prompt.
    about : metadata of the record: step, role, task, reward, temperature.
    """

    name: str
    prompt: str = ""
    response: str = ""
    messages: tuple[dict[str, Any], ...] | None = None
    ids: tuple[int, ...] | None = None
    prompt_tokens: int = 0
    about: dict[str, Any] = field(default_factory=dict)


def read(sources: Sequence[str | Path]) -> tuple[list[Document], list[str]]:
    """Read the documents of files and folders (for a run directory, its ``rollouts/``); return them with remarks.

    Raises
    ------
    InputError : a file cannot be read, or contains neither text nor tokens.
    """
    documents: list[Document] = []
    notes: list[str] = []
    for path in _files(sources):
        name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
        read_file = _parquet if name.endswith(".parquet") else _json_lines if name.endswith((".jsonl", ".ndjson")) else _plain
        candidates = list(read_file(path))
        texts = [document for document in candidates if document.prompt or document.response or document.messages or document.ids]
        if len(texts) < len(candidates):
            notes.append(f"{printable(path)}: {len(candidates) - len(texts):,} empty texts are left out")
        if not texts:
            raise InputError(f"{printable(path)}: holds no text")
        documents += texts
    return documents, notes


def _files(sources: Sequence[str | Path]) -> Iterator[Path]:
    for source in sources:
        path = Path(source)
        if path.is_file():
            yield path
        elif path.is_dir():
            if runs := run_folders(path):
                raise InputError(choose_run(path, runs))
            inside = path / "rollouts" if (path / "rollouts").is_dir() else path
            files = sorted(
                file for file in inside.rglob("*") if file.is_file() and file.suffix in SUFFIXES and file.name != "metrics.jsonl"
            )
            if not files:
                raise InputError(f"{printable(inside)}: a folder without texts in it; expected {', '.join(SUFFIXES)}")
            yield from files
        else:
            raise InputError(no_such_path(path))


def _plain(path: Path) -> Iterator[Document]:
    from dynamics.io.compression import opened

    with opened(path) as stream:
        content = stream.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{printable(path)}: is not UTF-8 text at byte {error.start}; convert it first") from None
    if "\0" in text:
        raise InputError(f"{printable(path)}: is no text; expected text, JSON lines or Parquet")
    yield Document(path.stem, response=text if text.strip() else "")


def _json_lines(path: Path) -> Iterator[Document]:
    from dynamics.io.json_lines import read_json_lines

    for number, record in read_json_lines(path):
        yield document(record, f"{path.stem}:{number}", f"{printable(path)}, line {number}")


def _parquet(path: Path) -> Iterator[Document]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        number = 0
        for batch in parquet.ParquetFile(path).iter_batches(1024):
            for record in batch.to_pylist():
                number += 1
                yield document(record, f"{path.stem}:{number}", f"{printable(path)}, row {number}")
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{printable(path)}: is damaged, or no Parquet file: {printable(str(error), 120)}") from None


def document(record: Any, name: str, where: str) -> Document:
    """Convert a record to a document, from its token ids if present, else from messages, prompt and response, or a text.

    Parameters
    ----------
    record : an object, or a text.
    name : name of the document if the record has no id.
    where : position of the record in its file, for errors.

    Raises
    ------
    InputError : the record has neither text nor tokens.
    """
    if isinstance(record, str):
        return Document(name, response=record)
    if not isinstance(record, dict):
        raise InputError(f"{where}: is neither an object nor a text")
    about = {key: record[key] for key in ABOUT if isinstance(record.get(key), (str, int, float, bool))}
    if isinstance(record.get("id"), (str, int)):
        name = str(record["id"])
    return _of_tokens(record, name, about, where) or _of_messages(record, name, about) or _of_text(record, name, about, where)


def _of_tokens(record: dict[str, Any], name: str, about: dict[str, Any], where: str) -> Document | None:
    if record.get("completion_ids") is not None:
        prompt, completion = _ids(record.get("prompt_ids") or [], where), _ids(record["completion_ids"], where)
        return Document(name, ids=prompt + completion, prompt_tokens=len(prompt), about=about)
    if record.get("token_ids") is not None:  # prime-rl's token exports: the tokens that are trained on are the response
        ids, mask = _ids(record["token_ids"], where), record.get("loss_mask")
        start = list(mask).index(True) if mask and True in mask else 0
        return Document(name, ids=ids, prompt_tokens=start, about=about)
    return None


def _of_messages(record: dict[str, Any], name: str, about: dict[str, Any]) -> Document | None:
    if isinstance(messages := record.get("messages"), list):
        return Document(name, messages=tuple(messages), about=about)
    prompt, response = _first(record, PROMPT), _first(record, RESPONSE)
    if not isinstance(prompt, list) and not isinstance(response, list):
        return None
    chat = [*(prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}])]
    chat += response if isinstance(response, list) else [{"role": "assistant", "content": response}] if response else []
    return Document(name, messages=tuple(chat), about=about)


def _of_text(record: dict[str, Any], name: str, about: dict[str, Any], where: str) -> Document:
    prompt, response = _first(record, PROMPT), _first(record, RESPONSE)
    if response is not None:
        return Document(name, prompt=str(prompt or ""), response=str(response), about=about)
    text = _first(record, TEXT)
    if text is None:
        text = prompt
    if text is None:
        keys = ", ".join(printable(key, 40) for key in list(record)[:10]) or "nothing"
        raise InputError(f"{where}: has no text: expected text, messages, prompt and completion, or their ids; it has {keys}")
    return Document(name, response=str(text), about=about)


def _first(record: dict[str, Any], names: Sequence[str]) -> Any:
    return next((record[name] for name in names if isinstance(record.get(name), (str, list))), None)


def _ids(values: Any, where: str) -> tuple[int, ...]:
    if not all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values):
        raise InputError(f"{where}: token ids must be whole numbers of at least 0")
    return tuple(values)

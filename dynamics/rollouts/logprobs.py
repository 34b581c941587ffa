"""Reader of token log-probabilities from inference servers."""

from __future__ import annotations

from typing import Any

from dynamics.errors import InputError, printable


def read_logprobs(path: str) -> list[list[float]]:
    """Read the top log-probabilities of each generated token from JSON lines of OpenAI-style responses, for example of vLLM.

    Reads ``choices[].logprobs.content[].top_logprobs[].logprob`` (chat), ``choices[].logprobs.top_logprobs[]`` (completions), and both
    without the enclosing ``choices``. A sampled token outside the top k is ignored, because bounds need the k largest values.

    Returns
    -------
    A list of natural logarithms per token; lists can differ in length.

    Raises
    ------
    InputError : the file is not JSON, or a record has no log-probabilities.
    """
    from pathlib import Path

    from dynamics.io.json_lines import read_json_lines

    logprobs: list[list[float]] = []
    for number, record in read_json_lines(Path(path)):
        rows = _logprob_rows(record.get("body", record) if isinstance(record, dict) else {})
        if not rows:
            where = f"{printable(path)}, line {number}"
            raise InputError(f"{where}: has no top log-probabilities; ask the server for them (top_logprobs, or logprobs=k)")
        logprobs += rows
    if not logprobs:
        raise InputError(f"{printable(path)}: is empty")
    return logprobs


def _logprob_rows(record: dict[str, Any]) -> list[list[float]]:
    rows: list[list[float]] = []
    for choice in record.get("choices") or [record]:
        logprobs = choice.get("logprobs") if isinstance(choice, dict) else None
        if not isinstance(logprobs, dict):
            continue
        rows += [[float(entry["logprob"]) for entry in token.get("top_logprobs") or []] for token in logprobs.get("content") or []]
        rows += [[float(value) for value in (token or {}).values()] for token in logprobs.get("top_logprobs") or []]
    return [row for row in rows if row]

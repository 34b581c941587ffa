"""Token log-probabilities that inference servers wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.errors import InputError, shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def read_logprobs(path: str) -> list[list[float]]:
    """The largest log-probabilities of every generated token, out of JSON lines of OpenAI-style responses, as vLLM and others give them.

    Reads ``choices[].logprobs.content[].top_logprobs[].logprob`` (chat), ``choices[].logprobs.top_logprobs[]`` (completions) and either
    without the choices around it. The sampled token is among the likeliest, or is left out: bounds need the k largest.

    Raises
    ------
    InputError : no JSON, or a record without log-probabilities.
    """
    import json
    from pathlib import Path

    from dynamics.io.compression import lines, opened

    found: list[list[float]] = []
    file = Path(path)
    with opened(file) as stream:
        for number, line in lines(stream, file):
            where = f"{shown(path)}, line {number}"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{where}: is not JSON: {shown(str(error), 80)}") from None
            rows = _logprob_rows(record.get("body", record) if isinstance(record, dict) else {})
            if not rows:
                raise InputError(f"{where}: has no top log-probabilities; ask the server for them (top_logprobs, or logprobs=k)")
            found += rows
    if not found:
        raise InputError(f"{shown(path)}: is empty")
    return found


def _logprob_rows(record: dict[str, Any]) -> list[list[float]]:
    rows: list[list[float]] = []
    for choice in record.get("choices") or [record]:
        given = choice.get("logprobs") if isinstance(choice, dict) else None
        if not isinstance(given, dict):
            continue
        for token in given.get("content") or []:
            rows.append([float(one["logprob"]) for one in token.get("top_logprobs") or []])
        for token in given.get("top_logprobs") or []:
            rows.append([float(value) for value in (token or {}).values()])
    return [row for row in rows if row]

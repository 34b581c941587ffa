"""The results of model passes as plain values, so that the next report need not run the models again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamics.report import cache
from dynamics.report.section import Options
from dynamics.rollouts.texts import Document

if TYPE_CHECKING:
    from dynamics.entropy.traces import Trace

#: packages whose version can change the numbers
PACKAGES = ("torch", "transformers", "tokenizers")
#: columns that every trace of two models has
COLUMNS = ("text", "position", "token", "prompt", "entropy", "surprisal", "entropy_b", "surprisal_b")
#: what the section shows of where a text comes from
ABOUT = ("part", "role")


@dataclass(frozen=True)
class Passes:
    """What two models gave on some texts.

    Attributes
    ----------
    columns : of ``Trace.tokens``: the dtype and the values of each.
    texts, dtype, seconds : see ``dynamics.entropy.traces.Trace``.
    about : by document, of what the section shows.
    notes : remarks for the reader.
    lost : what was left out, a line each.
    """

    columns: dict[str, tuple[str, list[Any]]]
    texts: dict[str, str]
    dtype: str
    seconds: float
    about: dict[str, dict[str, str]]
    notes: list[str]
    lost: list[str]


def plain(trace: Trace, notes: Sequence[str], lost: Sequence[str]) -> Passes:
    """Return a trace as plain values, with the remarks on the models before its own."""
    columns = {str(name): (str(values.dtype), values.tolist()) for name, values in trace.tokens.items()}
    about = {name: {key: str(details.get(key, "")) for key in ABOUT} for name, details in trace.about.items()}
    return Passes(columns, trace.texts, trace.dtype, trace.seconds, about, [*notes, *trace.notes], list(lost))


def restored(passes: Passes) -> Trace:
    """Return the trace of plain values.

    Raises
    ------
    ValueError, TypeError : they are not those of a trace.
    """
    import pandas as pd

    from dynamics.entropy.traces import Trace

    if lacking := [name for name in COLUMNS if name not in passes.columns]:
        raise ValueError(f"no column {lacking[0]}")
    if len({len(values) for _, values in passes.columns.values()}) > 1:
        raise ValueError("columns of several lengths")
    tokens = pd.DataFrame({name: pd.Series(values, dtype=dtype) for name, (dtype, values) in passes.columns.items()})
    return Trace(tokens, passes.texts, passes.dtype, passes.notes, passes.seconds, dict(passes.about))


def entry(options: Options, base: str, last: str, documents: Sequence[Document], dtype: str | None) -> cache.Entry[Passes]:
    """Make the entry of the passes of two models over some documents, in the cache of a report."""
    texts = json.dumps([asdict(document) for document in documents], default=str).encode()
    settings = {"texts": hashlib.sha256(texts).hexdigest(), "dtype": dtype, "packages": {name: _version(name) for name in PACKAGES}}
    return cache.entry(options, "passes", [_files(base), last], settings, Passes)


def _files(model: str) -> Path:
    """Return the folder of a model: of one of the Hub, that of the Hub's cache; if it is not there, a path that does not exist."""
    folder = Path(model)
    if folder.exists():
        return folder
    try:
        from huggingface_hub import try_to_load_from_cache

        config = try_to_load_from_cache(model, "config.json")
    except (ImportError, ValueError):  # no name of a model
        return folder
    return Path(config).parent if isinstance(config, str) else folder


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""

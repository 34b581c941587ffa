"""Run a causal language model over texts and record entropy, surprisal and rank of each token.

Row t belongs to token t; its entropy is that of the next-token distribution after tokens 0..t-1. The first token of a sequence has no
entropy (NaN), unless the tokenizer prepends a beginning-of-sequence token. Logits are computed in chunks from the hidden states
(``dynamics.entropy.logits.from_hidden``) and are never held for the whole batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.descriptions import plural, small_table
from dynamics.entropy.logits import TokenStats, from_hidden, from_logits, from_two
from dynamics.errors import InputError, printable
from dynamics.models import CausalModel, Head, Notes, out_of_memory, wrap
from dynamics.rollouts.texts import Document

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from dynamics.io.threads import Progress

#: maximum number of tokens in a forward pass
BATCH_TOKENS = 4096
TOP = 5
LENGTH_NOTE = (
    "the position embedding ({}) depends on the length of a sequence: each text is measured as it is alone, but its tokens were predicted "
    "with the embedding of a shorter text while it was written"
)


@dataclass(frozen=True)
class TokenizedDocument:
    """The tokens of a document.

    Attributes
    ----------
    document : source of the tokens.
    ids : token ids.
    text : the decoded text.
    starts, ends : character offsets of each token in the text.
    prompt : whether each token belongs to the prompt; a token that extends into the response does not.
    agrees : whether tokenising the text gives these ids.
    """

    document: Document
    ids: list[int]
    text: str
    starts: list[int]
    ends: list[int]
    prompt: list[bool]
    agrees: bool = True


def tokenise(document: Document, tokenizer: Any, notes: Notes) -> TokenizedDocument:
    """Tokenise a document. If it has token ids, they are used as given, with a note if its text would be tokenised differently."""
    if document.ids is not None:
        return _from_ids(document, tokenizer, notes)
    if document.messages is not None:
        return _from_messages(document, tokenizer, notes)
    text = document.prompt + document.response
    ids, starts, ends = _encode_with_special(tokenizer, text, notes)
    border = len(document.prompt)
    prompt = [border > 0 and end <= border for end in ends]
    return TokenizedDocument(document, ids, text, starts, ends, prompt)


def _encode(tokenizer: Any, text: str, special: bool) -> tuple[list[int], list[int], list[int]]:
    if getattr(tokenizer, "is_fast", False):
        encoding = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
        offsets = encoding["offset_mapping"]
        return list(encoding["input_ids"]), [start for start, _ in offsets], [end for _, end in offsets]
    ids = list(tokenizer(text, add_special_tokens=special)["input_ids"])
    starts, ends, _ = _offsets(ids, tokenizer)
    return ids, starts, ends


def _encode_with_special(tokenizer: Any, text: str, notes: Notes) -> tuple[list[int], list[int], list[int]]:
    """Tokenise a text with the special tokens that the tokenizer adds at its ends, but for those that the text has there already."""
    ids, starts, ends = _encode(tokenizer, text, special=False)
    whole = list(tokenizer(text)["input_ids"])
    if whole == ids:
        return ids, starts, ends
    added = len(whole) - len(ids)
    border = next((index for index in range(added, -1, -1) if whole[index : index + len(ids)] == ids), None)
    if border is None:  # special tokens change how the text itself is tokenised
        ids, starts, ends = _encode(tokenizer, text, special=True)
        if tokenizer.bos_token and text.startswith(tokenizer.bos_token) and ids[:2] == [tokenizer.bos_token_id] * 2:
            notes.add(_given_note(tokenizer, ids[:1], "begin"))
            return ids[1:], starts[1:], ends[1:]
        return ids, starts, ends
    before, after = whole[:border], whole[border + len(ids) :]
    if before and ids[: len(before)] == before:
        notes.add(_given_note(tokenizer, before, "begin"))
        before = []
    if after and ids[len(ids) - len(after) :] == after:
        notes.add(_given_note(tokenizer, after, "end"))
        after = []
    elif after:
        notes.add(f"the tokenizer ends texts with {tokenizer.decode(after)!r}, which counts as a token of the text")
    size = len(text)
    return [*before, *ids, *after], [0] * len(before) + starts + [size] * len(after), [0] * len(before) + ends + [size] * len(after)


def _given_note(tokenizer: Any, ids: list[int], side: str) -> str:
    return f"texts {side} with {tokenizer.decode(ids)!r} already: the tokenizer's own is left out"


def _offsets(ids: Sequence[int], tokenizer: Any) -> tuple[list[int], list[int], str]:
    """Compute the character offsets of each token by incremental decoding; tokens that are bytes of one character share its offset."""
    starts, ends, text, tail, decoded = [], [], "", 0, 0
    for index in range(len(ids)):
        before = tokenizer.decode(ids[tail:decoded], clean_up_tokenization_spaces=False)
        now = tokenizer.decode(ids[tail : index + 1], clean_up_tokenization_spaces=False)
        starts.append(len(text))
        if now.endswith("\ufffd") and index + 1 < len(ids):  # an incomplete character: wait for its remaining bytes
            ends.append(len(text) + 1)
            continue
        text += now[len(before) :]
        ends.append(len(text))
        tail, decoded = decoded, index + 1
    return starts, ends, text


def _from_ids(document: Document, tokenizer: Any, notes: Notes) -> TokenizedDocument:
    ids = list(document.ids or ())
    size = len(tokenizer)
    if ids and max(ids) >= size:
        raise InputError(
            f"{printable(document.name)}: token {max(ids)} is outside the tokenizer's vocabulary of {size:,}: the ids belong to another "
            "model"
        )
    prompt = [index < document.prompt_tokens for index in range(len(ids))]
    if document.generated is not None:
        prompt = [not generated for generated in document.generated]
    border = document.prompt_tokens
    kept = [*_without_padding(ids[:border], tokenizer), *(border + i for i in _without_padding(ids[border:], tokenizer, keep_end=True))]
    if len(kept) < len(ids):
        notes.add(f"recorded token ids are padded with {tokenizer.pad_token!r}: the padding is left out")
        ids, prompt = [ids[index] for index in kept], [prompt[index] for index in kept]
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    again, starts, ends = _encode(tokenizer, text, special=False)
    if again == ids:
        return TokenizedDocument(document, ids, text, starts, ends, prompt)
    notes.add("the token ids of some documents differ from the tokenised text; the ids are used as given")
    starts, ends, text = _offsets(ids, tokenizer)
    return TokenizedDocument(document, ids, text, starts, ends, prompt, False)


def _without_padding(ids: list[int], tokenizer: Any, keep_end: bool = False) -> range:
    """Return the indices of token ids without the padding at their ends.

    Where the padding token also begins or ends texts, a single one is kept; ``keep_end`` keeps one of any number, which ends a response.
    """
    pad = getattr(tokenizer, "pad_token_id", None)
    if pad is None or pad not in (ids[:1] + ids[-1:]):
        return range(len(ids))
    ends_text = pad in (tokenizer.bos_token_id, tokenizer.eos_token_id)
    first = next((index for index, token in enumerate(ids) if token != pad), len(ids))
    last = next((index for index in range(len(ids), 0, -1) if ids[index - 1] != pad), 0)
    if ends_text and (first == 1 or pad == tokenizer.bos_token_id):
        first = max(first - 1, 0)
    if ends_text and (keep_end or last == len(ids) - 1):
        last = min(last + 1, len(ids))
    return range(first, last)


def _from_messages(document: Document, tokenizer: Any, notes: Notes) -> TokenizedDocument:
    """Tokenise a chat with the chat template, which adds the special tokens; without a template, join the messages as plain text."""
    messages = list(document.messages or ())
    first = _content(messages[0]) if messages else ""
    answered = messages and messages[-1].get("role") == "assistant"
    if getattr(tokenizer, "chat_template", None):
        whole = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=not answered)
        before = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True) if answered else whole
        border = len(before) if whole.startswith(before) else 0
        if not border:
            notes.add("the formatted chat does not begin with the formatted prompt: prompt and response are not distinguished")
        bos = getattr(tokenizer, "bos_token", None)
        if bos and first.startswith(bos) and whole.startswith(bos + bos):
            notes.add(f"texts begin with {bos!r} already: that of the chat template is left out")
            whole, border = whole[len(bos) :], max(border - len(bos), 0)
        elif bos and first.startswith(bos) and whole.startswith(bos):
            notes.add(f"the first message begins with {bos!r}, as the chat template itself does: is it a prompt that has been formatted?")
        ids, starts, ends = _encode(tokenizer, whole, special=False)
    else:
        notes.add("the tokenizer has no chat template: messages are joined as plain text")
        whole = "\n".join(map(_content, messages))
        border = len(whole) - len(_content(messages[-1])) if answered else len(whole)
        ids, starts, ends = _encode_with_special(tokenizer, whole, notes)
    return TokenizedDocument(document, ids, whole, starts, ends, [border > 0 and end <= border for end in ends])


def _content(message: dict[str, Any]) -> str:
    """Return the text of a message, whose content can be a text, a list of parts, or nothing."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    return "".join(str(part.get("text") or "") if isinstance(part, dict) else str(part or "") for part in parts)


@dataclass(frozen=True)
class Window:
    """Tokens ``start`` to ``stop`` of a sequence; those before ``fresh`` are context from the previous window.

    Attributes
    ----------
    sequence : index of the sequence.
    start, stop, fresh : indices of tokens.
    """

    sequence: int
    start: int
    stop: int
    fresh: int

    def __len__(self) -> int:
        """Return the number of tokens."""
        return self.stop - self.start


def windows(lengths: Sequence[int], size: int) -> list[Window]:
    """Split sequences into windows that cover each token once, with half a window of context from the second window on.

    Parameters
    ----------
    lengths : lengths of the sequences in tokens.
    size : maximum length of a window in tokens.
    """
    result = []
    for sequence, length in enumerate(lengths):
        start, done = 0, 0
        while done < length:
            stop = min(length, start + size)
            result.append(Window(sequence, start, stop, done))
            done = stop
            start = stop - size // 2
    return result


@dataclass(frozen=True, repr=False)
class Trace:
    """Token statistics of a model over texts.

    Attributes
    ----------
    tokens : a row per token, see ``trace``.
    texts : text by document name.
    dtype : of the forward pass.
    notes : remarks for the reader.
    seconds : run time.
    about : metadata by document name: step, role, task, reward.
    """

    tokens: pd.DataFrame
    texts: dict[str, str]
    dtype: str
    notes: list[str]
    seconds: float
    about: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Say in a line how many tokens there are, and their mean entropy."""
        means = f"mean entropy {self.tokens['entropy'].mean():.4g} nats" if "entropy" in self.tokens else "no entropy"
        if "entropy_b" in self.tokens:
            means += f", second model {self.tokens['entropy_b'].mean():.4g}"
        return f"<Trace of {plural(len(self.tokens), 'token')} in {plural(len(self.texts), 'text')}: {means}>"

    def _repr_html_(self) -> str:
        """Show the means of the columns as a small table in a notebook."""
        measured = ("entropy", "varentropy", "surprisal", "entropy_at_temperature", "entropy_b", "surprisal_b", "kl_ab", "kl_ba")
        rows = [[name, f"{self.tokens[name].mean():.4g}"] for name in measured if name in self.tokens]
        return small_table(repr(self).strip("<>"), ["column", "mean over tokens"], rows)


def trace(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str | Document],
    *,
    against: Any = None,
    temperature: float = 1.0,
    top: int = 0,
    rank: bool = True,
    window: int | None = None,
    vocabulary: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
    keep: Callable[[pd.DataFrame], None] | None = None,
) -> Trace:
    """Run ``model`` over ``texts`` and compute the statistics of each next-token distribution.

    Parameters
    ----------
    model, tokenizer : a transformers causal language model and its tokenizer.
    texts : strings or ``dynamics.rollouts.texts.Document``.
    against : second model with the same vocabulary, to compare with.
    temperature : if not 1, also compute the entropy at this temperature, in ``entropy_at_temperature``; all other columns are at 1.
    top : number of most likely tokens to record, as lists of ids and probabilities.
    rank : whether to compute ranks.
    window : maximum sequence length of a forward pass, by default that of the model; longer texts are split into windows that overlap by
        half.
    vocabulary : number of rows of the output head that are tokens; all if None.
    batch_tokens : maximum number of tokens in a forward pass, padding included; halved when memory runs out.
    progress : called with (tokens done, total tokens).
    keep : called with the rows of each window as soon as they are computed, for example to write them to a file.

    Returns
    -------
    ``Trace``. Its ``tokens`` have a row per token: text, position, token_id, token, offset, end, prompt, entropy, varentropy, surprisal,
    rank; if requested entropy_at_temperature, top_ids, top_p; with ``against`` also entropy_b, surprisal_b, rank_b, kl_ab, kl_ba. In nats.

    Raises
    ------
    InputError : no causal model, a tokenizer of another vocabulary, a text without tokens.
    """
    import pandas as pd

    if tokenizer is None:
        raise InputError("no tokenizer given: a trace needs the tokenizer of the model")
    if not temperature > 0:
        raise InputError("temperature: must be above 0; at 0 the distribution is a single token and its entropy is 0")
    began = time.perf_counter()
    ours = wrap(model, tokenizer, window, vocabulary)
    theirs = None if against is None else wrap(against, tokenizer, window, vocabulary)
    notes = ours.notes
    documents = [Document(str(index), response=text) if isinstance(text, str) else text for index, text in enumerate(texts)]
    names = _unique([document.name for document in documents])
    sequences = _tokenised(documents, names, tokenizer, notes)
    size = min(ours.window, theirs.window) if theirs else ours.window
    long = sum(len(sequence.ids) > size for sequence in sequences)
    if long:
        notes.add(
            f"{plural(long, 'text is', 'texts are')} longer than the window of {size:,} tokens: measured in windows that overlap by half"
        )
    jobs = sorted(windows([len(sequence.ids) for sequence in sequences], size), key=len)
    total, done, longest = sum(job.stop - job.fresh for job in jobs), 0, len(jobs[-1])
    parts: list[pd.DataFrame] = []
    settings = _Settings(temperature, top, rank)
    for job, columns in _measured(ours, theirs, sequences, jobs, batch_tokens, settings):
        table = _described(columns, sequences[job.sequence], names[job.sequence], job, tokenizer)
        parts.append(table)
        if keep:
            keep(table)
        done += len(table)
        if progress:
            progress(done, total)
    for wrapped in (ours, *([] if theirs is None else [theirs])):
        _leave(wrapped, longest)
    tokens = pd.concat(parts, ignore_index=True)
    document_index = tokens["text"].map({name: index for index, name in enumerate(names)})
    tokens = tokens.iloc[np.lexsort([tokens["position"], document_index])].reset_index(drop=True)
    if theirs is not None:
        notes.lines += [f"second model: {line}" for line in theirs.notes.lines if line not in notes.lines]
    dtype = ours.dtype if theirs is None or theirs.dtype == ours.dtype else f"{ours.dtype}, second model {theirs.dtype}"
    whole_texts = {name: sequence.text for name, sequence in zip(names, sequences, strict=True)}
    about = {name: sequence.document.about for name, sequence in zip(names, sequences, strict=True)}
    return Trace(tokens, whole_texts, dtype, notes.lines, time.perf_counter() - began, about)


def _tokenised(documents: Sequence[Document], names: Sequence[str], tokenizer: Any, notes: Notes) -> list[TokenizedDocument]:
    """Tokenise all documents; raise InputError if one has no tokens."""
    sequences = [tokenise(document, tokenizer, notes) for document in documents]
    empty = [name for name, sequence in zip(names, sequences, strict=True) if not sequence.ids]
    if empty:
        raise InputError(f"{printable(empty[0])}: has no tokens ({len(empty)} such texts)")
    return sequences


def _leave(model: CausalModel, longest: int) -> None:
    """Return a model to its state before the longest window; say what is special about it."""
    model.forget()
    if model.lengths.group(longest):
        model.notes.add(LENGTH_NOTE.format(", ".join(model.lengths.kinds)))


@dataclass(frozen=True)
class _Settings:
    """What to compute: entropy at a temperature, the ``top`` most likely tokens, ranks."""

    temperature: float
    top: int
    rank: bool


def _measured(
    ours: CausalModel,
    theirs: CausalModel | None,
    sequences: Sequence[TokenizedDocument],
    jobs: list[Window],
    batch_tokens: int,
    settings: _Settings,
) -> Iterator[tuple[Window, dict[str, np.ndarray]]]:
    """Run the models over all windows in batches; halve the batches when memory runs out."""
    import torch

    while jobs:
        batch = _next_batch(jobs, batch_tokens, [ours] if theirs is None else [ours, theirs])
        try:
            with torch.no_grad():
                columns = _measure(ours, theirs, sequences, batch, settings)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            if len(batch) == 1:
                raise InputError(f"out of memory for a window of {len(batch[0]):,} tokens: try a smaller --window") from None
            batch_tokens = max(1, sum(map(len, batch)) // 2)
            ours.notes.add("out of memory: the batches were halved")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        del jobs[: len(batch)]
        yield from zip(batch, columns, strict=True)


def _unique(names: Sequence[str]) -> list[str]:
    """Make names unique by appending a number to repeated names."""
    counts: dict[str, int] = {}
    unique = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        unique.append(name if counts[name] == 1 else f"{name} ({counts[name]})")
    return unique


def _next_batch(jobs: Sequence[Window], budget: int, models: Sequence[CausalModel]) -> list[Window]:
    """Take as many of the shortest windows as fit into the budget when padded to the longest of them, but at least one.

    Only windows that have the same logits in one batch as each alone are taken together.
    """
    batch: list[Window] = []
    alone = any(model.alone for model in models)
    groups = [model.lengths.group(len(jobs[0])) for model in models]
    for job in jobs:
        if batch and (alone or (len(batch) + 1) * len(job) > budget or [model.lengths.group(len(job)) for model in models] != groups):
            break
        batch.append(job)
    return batch


def _measure(
    ours: CausalModel,
    theirs: CausalModel | None,
    sequences: Sequence[TokenizedDocument],
    batch: Sequence[Window],
    settings: _Settings,
) -> list[dict[str, np.ndarray]]:
    """Compute the columns of the fresh tokens of each window of a batch."""
    import torch

    width = max(map(len, batch))
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    spans = []  # row of the batch, first fresh token that is predicted, end of the window
    for row, job in enumerate(batch):
        tokens = sequences[job.sequence].ids[job.start : job.stop]
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
        spans.append((row, max(job.fresh - job.start, 1), len(tokens)))
    rows = torch.cat([torch.arange(row * width + first - 1, row * width + count - 1) for row, first, count in spans])
    targets = torch.cat([ids[row, first:count] for row, first, count in spans])
    given = (ids, mask, rows, targets)
    if theirs is None:
        columns = _run(ours, *given, settings)
    elif ours.head is None or theirs.head is None:
        columns = _run(ours, *given, settings) | _second(_run(theirs, *given, replace(settings, top=0, temperature=1.0)))
        ours.notes.add("no KL divergence: the logits of one of the models could not be computed from its hidden states")
    else:
        columns = _run_both(ours, theirs, *given, settings)
        if ours.head.size != theirs.head.size:
            size = min(ours.head.size, theirs.head.size)
            ours.notes.add(f"the heads have {ours.head.size:,} and {theirs.head.size:,} rows: divergences are over the {size:,} of both")
    split = np.cumsum([count - first for _, first, count in spans])[:-1]
    parts = {name: np.split(values, split) for name, values in columns.items()}
    return [{name: values[index] for name, values in parts.items()} for index in range(len(batch))]


def _run(
    model: CausalModel, ids: torch.Tensor, mask: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor, settings: _Settings
) -> dict[str, np.ndarray]:
    """Run one model; return the columns of the rows of the flattened batch that predict ``targets``."""
    if model.head is not None:
        hidden, head = _states(model, model.head, ids, mask, rows)
        options: Any = {"softcap": head.softcap, "scale": head.scale, "vocabulary": head.size}
        stats = from_hidden(hidden, head.weight, head.bias, targets=targets, rank=settings.rank, top=settings.top, **options)
        return _columns(stats) | _tempered(hidden, head, settings)
    model.forget()
    logits = model.logits(ids.to(model.device), mask.to(model.device)).flatten(0, 1)[rows.to(model.device)]
    stats = from_logits(logits, targets=targets)
    columns = _columns(stats)
    if settings.temperature != 1.0:
        columns["entropy_at_temperature"] = from_logits(logits, settings.temperature).entropy.cpu().numpy()
    if settings.top:
        best = logits.float().topk(settings.top)
        columns |= _columns(replace(stats, top_ids=best.indices, top_logits=best.values))
    return columns


def _run_both(
    ours: CausalModel,
    theirs: CausalModel,
    ids: torch.Tensor,
    mask: torch.Tensor,
    rows: torch.Tensor,
    targets: torch.Tensor,
    settings: _Settings,
) -> dict[str, np.ndarray]:
    """Run two models, whose heads are known; return the columns of both, and their divergences."""
    assert ours.head is not None
    assert theirs.head is not None
    first, second = _states(ours, ours.head, ids, mask, rows), _states(theirs, theirs.head, ids, mask, rows)
    stats, other, kl_ab, kl_ba = from_two(first, second, targets, settings.rank, settings.top)
    return _columns(stats) | _tempered(*first, settings) | _second(_columns(other)) | {"kl_ab": kl_ab, "kl_ba": kl_ba}


def _states(model: CausalModel, head: Head, ids: torch.Tensor, mask: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, Head]:
    """Run the body of a model; return the hidden states of some rows of the flattened batch, and its head."""
    model.forget()
    return model.hidden(ids.to(model.device), mask.to(model.device)).flatten(0, 1)[rows.to(model.device)], head


def _tempered(hidden: torch.Tensor, head: Head, settings: _Settings) -> dict[str, np.ndarray]:
    """Return the entropy at the temperature that is asked for, if that is not 1."""
    if settings.temperature == 1.0:
        return {}
    options: Any = {"softcap": head.softcap, "scale": head.scale, "vocabulary": head.size, "temperature": settings.temperature}
    return {"entropy_at_temperature": from_hidden(hidden, head.weight, head.bias, **options).entropy.cpu().numpy()}


def _columns(stats: TokenStats) -> dict[str, np.ndarray]:
    """Return the statistics of tokens as columns."""
    names = ("entropy", "varentropy", "surprisal", "rank", "logsumexp", "top_ids")
    columns = {name: getattr(stats, name).cpu().numpy() for name in names if getattr(stats, name) is not None}
    if stats.top_logits is not None:
        columns["top_p"] = np.exp(stats.top_logits.double().cpu().numpy() - columns["logsumexp"][:, None])
    return columns


def _second(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the columns of a second model."""
    return {f"{name}_b": columns[name] for name in ("entropy", "surprisal", "rank") if name in columns}


def _described(columns: dict[str, np.ndarray], sequence: TokenizedDocument, name: str, job: Window, tokenizer: Any) -> pd.DataFrame:
    """Return the rows of a window's fresh tokens; the first token of a sequence has no prediction."""
    import pandas as pd

    span = slice(job.fresh, job.stop)
    ids = sequence.ids[span]
    unpredicted = job.fresh == 0
    table: dict[str, Any] = {
        "text": name,
        "position": np.arange(job.fresh, job.stop),
        "token_id": ids,
        "token": [
            sequence.text[start:end] if end > start else tokenizer.decode([token])
            for start, end, token in zip(sequence.starts[span], sequence.ends[span], ids, strict=True)
        ],
        "offset": sequence.starts[span],
        "end": sequence.ends[span],
        "prompt": sequence.prompt[span],
    }
    for column, values in columns.items():
        if column.startswith("logsumexp"):
            continue
        if column.startswith("rank"):
            ranks = np.concatenate([[0], values]) if unpredicted else np.asarray(values)
            table[column] = pd.arrays.IntegerArray(ranks.astype(np.int64), ranks == 0)
        elif column.startswith("top_"):
            lists = [row.tolist() for row in values]
            table[column] = pd.Series([None, *lists] if unpredicted else lists, dtype=object)
        else:
            table[column] = np.concatenate([[math.nan], values]) if unpredicted else values
    return pd.DataFrame(table)

"""Find the token log-probabilities in a response of an inference server, in the layout of any of them."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import msgspec

from dynamics.errors import InputError, printable
from dynamics.io.validation import converted

#: log-probabilities below this say that the token has none: -9999 of OpenAI and vLLM, the least float32 of llama.cpp
NO_VALUE = -9000.0
#: keys under which a log nests the response itself, outermost first
WRAPPERS = ("response", "body", "raw_response", "result", "output", "data")
#: number of tokens
Count = Annotated[int, msgspec.Meta(ge=0, le=10_000_000)]
#: responses, or lists of them, in one another
DEEPEST = 20
#: rounding can make a log-probability larger than 0 by less than this
ABOVE_ZERO = 1e-2
#: remarks on values that are not those of the model's own distribution
SGLANG = (
    "SGLang divides the logits of generated tokens by the temperature, unless SGLANG_RETURN_ORIGINAL_LOGPROB is set: "
    "the bounds are those of that distribution"
)
TGI = "text-generation-inference applies temperature, top_k and top_p first: the bounds are those of that distribution"
LLAMA_CPP = "these are llama.cpp's probabilities after its samplers: the bounds are those of that distribution"
#: remark on a text completion whose prompt is echoed and not counted in the response
ECHO = "a completion begins with a token without log-probabilities, as an echoed prompt does: the tokens of its prompt count as well"
#: error of log-probabilities that llama.cpp adds up one by one in float32, relative to 1 + abs(log-probability)
LLAMA_CPP_ROUNDING = 2.0**-15


@dataclass(frozen=True)
class Row:
    """What a response says about one token.

    Attributes
    ----------
    entries : (name, log-probability) of the listed tokens, in the order of the response; names are texts or ids.
    sampled : name and log-probability of the token that was sampled or stands in the prompt; each None where it is not given.
    prompt : whether the token belongs to the prompt.
    extra : whether the sampled token can be in the list without being one of the likeliest.
    merged : whether tokens of one text share an entry: True in an object whose keys are texts, None in a list that some servers make of
        such an object, False where tokens are named by their ids or a text comes twice.
    listed : number of entries of the response, those without a value included.
    sorted_names : whether the entries are in the order of their names, so that their order says nothing about their values.
    ranks : rank of each entry; None where they are not given.
    remark : what the reader should know about the values.
    rounding : least error of the values, relative to 1 + abs(value).
    """

    entries: list[tuple[Any, float]]
    sampled: tuple[Any, float | None] | None = None
    prompt: bool = False
    extra: bool = True
    merged: bool | None = False
    listed: int = 0
    sorted_names: bool = False
    ranks: list[int] | None = None
    remark: str = ""
    rounding: float = 0.0


def failed(record: Any) -> bool:
    """Whether a line of a batch reports an error in place of a response."""
    if not isinstance(record, dict):
        return False
    response = record.get("response")
    status = response.get("status_code") if isinstance(response, dict) else None
    return bool(record.get("error")) or (isinstance(status, int) and status >= 400) or ("custom_id" in record and response is None)


def is_chunk(record: Any) -> bool:
    """Whether a line is a piece of a streamed response, which may have no tokens."""
    return isinstance(record, dict) and str(record.get("object", "")).endswith(".chunk")


def rows(record: Any, depth: int = 0) -> Iterator[Row | None]:
    """Yield a row for each token of a response, or of a list of responses, and None for a token without log-probabilities.

    Raises
    ------
    InputError : a value is not what it must be; the message is the end of one that names the record.
    """
    if depth > DEEPEST:
        return
    if isinstance(record, list):
        for one in record:
            yield from rows(one, depth + 1)
        return
    if not isinstance(record, dict):
        return
    inner = [partial(rows, record[key], depth + 1) for key in WRAPPERS if isinstance(record.get(key), (dict, list))]
    yield from _first_of(*(partial(read, record) for read in _LAYOUTS), *inner)


def _first_of(*readers: Callable[[], Iterator[Row | None]]) -> Iterator[Row | None]:
    """Yield the rows of the first reader that has any: one token can be described, and one response logged, in several ways."""
    for read in readers:
        found = False
        for row in read():
            found = True
            yield row
        if found:
            return


def value(number: Any) -> float | None:
    """Return a log-probability as a float, or None for what stands for no value: null, NaN, -inf, -9999."""
    if isinstance(number, bool):
        return None
    try:
        found = float(number)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if found > NO_VALUE and math.isfinite(found) else None


def _log(probability: Any) -> float | None:
    number = value(probability)
    return math.log(number) if number is not None and number > 0 else None


def _name(token: dict[str, Any], key: str, other: str) -> Any:
    """Return the name of a token, a text or an id, under one of two keys."""
    name = token.get(key, token.get(other))
    if isinstance(name, (list, dict)):
        found = "a list" if isinstance(name, list) else "an object"
        raise InputError(f", field {key!r}: a token is named by a text or a number, found {found}")
    return name


def _lists(values: Any) -> list[Any]:
    return values if isinstance(values, list) else []


def _dicts(values: Any) -> Iterator[dict[str, Any]]:
    for one in values if isinstance(values, list) else []:
        if isinstance(one, dict):
            yield one


def _choices(record: dict[str, Any]) -> Iterator[Row | None]:
    """Chat and text completions of OpenAI and all that follow them, and one choice without its response."""
    choices: Any = record.get("choices")
    alone = not isinstance(choices, list)
    several = list(_dicts([record] if alone else choices))
    prompts = _prompt_lengths(record, several)
    for choice, prompt in zip(several, prompts, strict=True):
        logprobs = choice.get("logprobs")
        if isinstance(logprobs, dict):
            yield from _first_of(partial(_chat, logprobs), partial(_text_completion, logprobs, prompt))
        elif isinstance(logprobs, list):  # Ollama; vLLM's and LMDeploy's own outputs
            yield from _token_list(logprobs)
        if isinstance(choice.get("prompt_logprobs"), list):
            yield from (_by_id(row, True) for row in choice["prompt_logprobs"][1:])
    if not alone and isinstance(record.get("prompt_logprobs"), list):
        yield from (_by_id(row, True) for row in record["prompt_logprobs"][1:])


def _chat(logprobs: dict[str, Any]) -> Iterator[Row | None]:
    for part in ("reasoning_content", "content", "refusal"):  # the first is DeepSeek's
        yield from _token_entries(logprobs.get(part))


def _prompt_lengths(record: dict[str, Any], choices: list[dict[str, Any]]) -> list[int]:
    """Count the tokens of an echoed prompt at the start of each choice, where the response tells."""
    tops = [choice["logprobs"].get("top_logprobs") if isinstance(choice.get("logprobs"), dict) else None for choice in choices]
    lengths = [len(top) if isinstance(top, list) else 0 for top in tops]
    usage = record.get("usage")
    if isinstance(usage, dict):
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if isinstance(prompt, int) and isinstance(completion, int) and sum(lengths) == prompt * len(lengths) + completion:
            return [prompt] * len(choices)
    return [0] * len(choices)


def _token_entries(entries: Any) -> Iterator[Row | None]:
    """Tokens as objects with their alternatives beside them."""
    for token in _dicts(entries):
        yield _token_entry(token)


def _token_entry(token: dict[str, Any]) -> Row | None:
    sampled = value(token.get("logprob"))
    name = _name(token, "token", "id")
    if isinstance(top := token.get("top_logprobs"), dict):  # alternatives as an object, as in text completions
        return _by_text(top, (name, sampled), False)
    if isinstance(top, list):
        listed = [(_name(entry, "token", "id"), value(entry.get("logprob"))) for entry in _dicts(top)]
        by_id = all("id" in entry for entry in _dicts(top))
        different = by_id or len({text for text, _ in listed}) < len(listed)
        rounding = LLAMA_CPP_ROUNDING if by_id else 0.0
        return _row(listed, (name, sampled), merged=False if different else None, rounding=rounding)
    after = token.get("top_probs", token.get("probs"))
    if isinstance(after, list):  # llama.cpp
        listed = [(_name(entry, "token", "tok_str"), _log(entry.get("prob"))) for entry in _dicts(after)]
        return _row(listed, None, extra=False, remark=LLAMA_CPP, rounding=LLAMA_CPP_ROUNDING)
    return None


def _row(listed: list[tuple[Any, float | None]], sampled: tuple[Any, float | None] | None, **settings: Any) -> Row | None:
    entries = [(name, number) for name, number in listed if number is not None]
    _check_values(entries)
    return Row(entries, None if sampled == (None, None) else sampled, listed=len(listed), **settings) if entries else None


def _check_values(entries: list[tuple[Any, float]]) -> None:
    """Refuse numbers that are no logarithms of probabilities."""
    largest = max((number for _, number in entries), default=0.0)
    if largest > ABOVE_ZERO:
        raise InputError(f": has a log-probability of {largest:g}; a logarithm of a probability is at most 0")


def _by_text(top: dict[str, Any], sampled: tuple[Any, float | None] | None, prompt: bool, remark: str = "") -> Row | None:
    ids = all(name.startswith("token_id:") for name in top)  # vLLM's return_tokens_as_token_ids
    listed = [(name, value(number)) for name, number in top.items()]
    in_order = len(top) > 2 and list(top) == sorted(top)
    return _row(listed, sampled, prompt=prompt, merged=not ids, sorted_names=in_order, remark=remark)


def _aligned(values: Any, tops: list[Any]) -> list[Any]:
    """Return a value for each token, None where there is none; an echoed prompt may lack that of its first token."""
    found = values if isinstance(values, list) else []
    if tops and tops[0] is None and len(found) == len(tops) - 1:
        found = [None, *found]
    return found if len(found) == len(tops) else [None] * len(tops)


def _text_completion(logprobs: dict[str, Any], prompt: int) -> Iterator[Row | None]:
    tops = logprobs.get("top_logprobs")
    if not isinstance(tops, list):
        return
    tokens, chosen = (_aligned(logprobs.get(key), tops) for key in ("tokens", "token_logprobs"))
    for index, top in enumerate(tops):
        sampled = tokens[index], value(chosen[index])
        remark = ECHO if tops[0] is None and not prompt else ""
        if isinstance(top, dict):
            yield _by_text(top, sampled, index < prompt, remark)
        elif isinstance(top, list):  # a list of objects for each token
            listed = [(entry.get("token"), value(entry.get("logprob"))) for entry in _dicts(top)]
            yield _row(listed, sampled, prompt=index < prompt, remark=remark)
        elif index:  # the first token of an echoed prompt has no distribution
            yield None


def _token_list(tokens: list[Any]) -> Iterator[Row | None]:
    for token in tokens:
        if not isinstance(token, dict):
            yield None
        elif "logprob" in token or "top_logprobs" in token:
            yield _token_entry(token)
        else:
            yield _by_id(token, False)


def _by_id(top: Any, prompt: bool) -> Row | None:
    """Log-probabilities by token id; vLLM puts the token itself first and gives ranks."""
    if not isinstance(top, dict) or not top:
        return None
    details = [entry if isinstance(entry, dict) else {"logprob": entry} for entry in top.values()]
    numbers = [value(entry.get("logprob")) for entry in details]
    ranks = [entry.get("rank") for entry in details]
    known = [index for index, number in enumerate(numbers) if number is not None]
    if not known:
        return None
    names = list(top)
    entries = [(names[index], number) for index in known if (number := numbers[index]) is not None]
    _check_values(entries)
    ranked = [rank for index in known if isinstance(rank := ranks[index], int)]
    return Row(entries, entries[0], prompt, ranks=ranked if len(ranked) == len(known) else None)


def _outputs(record: dict[str, Any]) -> Iterator[Row | None]:
    """``RequestOutput`` of vLLM, and the output items of OpenAI's Responses."""
    for output in _dicts(record.get("outputs")):
        if isinstance(output.get("logprobs"), list):
            yield from _token_list(output["logprobs"])
    for item in _dicts(record.get("output")):
        for part in _dicts(item.get("content")):
            yield from _token_entries(part.get("logprobs"))


def _sglang(record: dict[str, Any]) -> Iterator[Row | None]:
    about = record.get("meta_info")
    if not isinstance(about, dict):
        return
    for prompt, names in ((True, ("input", "prefill")), (False, ("output", "decode"))):
        for name in names:
            for index, top in enumerate(_sglang_tops(about, name)):
                if isinstance(top, list):
                    entries = [entry for entry in top if isinstance(entry, (list, tuple)) and len(entry) >= 2]
                    listed = [(entry[1], value(entry[0])) for entry in entries]
                    yield _row(listed, None, prompt=prompt, extra=False, remark="" if prompt else SGLANG)
                elif index or not prompt:
                    yield None


def _sglang_tops(about: dict[str, Any], name: str) -> list[Any]:
    """Return the lists of one side of a response, which may be written as one flat array."""
    if isinstance(tops := about.get(f"{name}_top_logprobs"), list):
        return tops
    start = f"{name}_top_logprobs_"
    given = {key.removeprefix(start): item for key, item in about.items() if key.startswith(start)}
    flat = converted(given, Flat, f", field {start}*")
    if flat.shape is None:
        return []
    count, width = flat.shape
    columns = []
    for numbers, coded, dtype in ((flat.val_flat, flat.val_flat_b64, "<f4"), (flat.idx_flat, flat.idx_flat_b64, "<i4")):
        column: list[Any] = numbers if numbers is not None else _decoded(coded, dtype) if coded is not None else []
        if len(column) != count * width:
            return []
        columns.append(column)
    pairs = list(zip(*columns, strict=True))
    lists: list[Any] = [pairs[first : first + width] for first in range(0, len(pairs), width or 1)]
    return [None] * (flat.null_prefix or 0) + lists


class Flat(msgspec.Struct):
    """The lists of one side of a response of SGLang as flat arrays, which may be in base64."""

    shape: tuple[Count, Count] | None = None
    null_prefix: Count | None = None
    val_flat: list[float | None] | None = None
    idx_flat: list[int | None] | None = None
    val_flat_b64: str | None = None
    idx_flat_b64: str | None = None


def _decoded(text: str, dtype: str) -> list[Any]:
    import numpy as np

    try:
        return np.frombuffer(base64.b64decode(text), dtype).tolist()
    except ValueError as error:
        raise InputError(f": its log-probabilities in base64 cannot be decoded ({printable(str(error), 60)})") from None


def _tgi(record: dict[str, Any]) -> Iterator[Row | None]:
    details = record.get("details")
    if not isinstance(details, dict):
        return
    for sequence in (details, *_dicts(details.get("best_of_sequences"))):
        for top in _lists(sequence.get("top_tokens")):
            yield _row([(entry.get("id"), value(entry.get("logprob"))) for entry in _dicts(top)], None, extra=False, remark=TGI)


def _llama_cpp(record: dict[str, Any]) -> Iterator[Row | None]:
    yield from _token_entries(record.get("completion_probabilities"))


def _gemini(record: dict[str, Any]) -> Iterator[Row | None]:
    for candidate in _dicts(record.get("candidates")):
        result = candidate.get("logprobsResult", candidate.get("logprobs_result"))
        tops = result.get("topCandidates", result.get("top_candidates")) if isinstance(result, dict) else None
        for top in _dicts(tops):
            listed = [
                (entry.get("tokenId", entry.get("token")), value(entry.get("logProbability", entry.get("log_probability"))))
                for entry in _dicts(top.get("candidates"))
            ]
            yield _row(listed, None)


def _openai(record: dict[str, Any]) -> Iterator[Row | None]:
    yield from _choices(record)
    yield from _outputs(record)


_LAYOUTS: tuple[Callable[[dict[str, Any]], Iterator[Row | None]], ...] = (_openai, _sglang, _tgi, _llama_cpp, _gemini)

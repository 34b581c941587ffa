"""Records of sampled completions, as trainers write them, and what they say: texts, reward, length."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from dynamics.errors import printable

PROMPT = ("prompt", "input", "question", "instruction", "query")
COMPLETION = ("completion", "output", "response", "answer", "generation")
REWARD = ("reward", "score")
#: reasons for which a completion ended at the limit of tokens
CUT = frozenset(["length", "max_tokens", "max_length"])
#: conditions at which verifiers cuts a trace
STOPPED = frozenset(["max_turns", "max_input_tokens", "max_output_tokens", "max_total_tokens", "context_length"])
#: numbers from this on are infinite for what follows
LARGEST = 1e300
#: messages of a chat, and branches of a trace
MOST_MESSAGES = 10_000


class Completion(NamedTuple):
    """A sampled completion, as a row of the table."""

    step: int | None
    prompt: str
    completion: str
    reward: float = math.nan
    tokens: float = math.nan
    truncated: bool | None = None
    role: str = ""


class NoCompletion(ValueError):
    """Raised for a record that holds no completion; the text says what is wrong."""


#: turns a record into completions, or raises ``NoCompletion``
Reader = Callable[[Mapping[str, Any]], Iterator[Completion]]


def reader(record: Mapping[str, Any]) -> Reader:
    """Choose the reader for the records of a file, by its first one."""
    if isinstance(record.get("traces"), list):
        return episode
    if isinstance(record.get("nodes"), list):
        return trace
    if {"prompt_tokens", "response_tokens"} <= record.keys():
        return token_ids
    return plain


def plain(record: Mapping[str, Any]) -> Iterator[Completion]:
    """Read a prompt and a completion, each a text or chat messages, with a reward: this project's, TRL's and verl's samples."""
    completion, prompt = _first(record, COMPLETION), _first(record, PROMPT)
    if completion is None:
        raise NoCompletion(f"has no field {' or '.join(map(repr, COMPLETION[:3]))}")
    name = next((name for name in REWARD if name in record), "")
    yield Completion(
        step_of(record),
        text(prompt, "prompt") if prompt is not None else "",
        text(completion, "completion"),
        number(record.get(name), name),
        _length(record.get("completion_ids")),
        _cut(record),
        role=_name(record.get("role")),
    )


def token_ids(record: Mapping[str, Any]) -> Iterator[Completion]:
    """Read a sample of open-instruct, which has the ids of its tokens, not their text."""
    prompt, response = (_ids(record.get(name), name) for name in ("prompt_tokens", "response_tokens"))
    reward, reason = number(record.get("reward"), "reward"), record.get("finish_reason")
    truncated = reason in CUT if isinstance(reason, str) else None
    yield Completion(step_of(record), _joined(prompt), _joined(response), reward, float(len(response)), truncated)


def episode(record: Mapping[str, Any]) -> Iterator[Completion]:
    """Read an episode of verifiers: a completion for each trace of an agent that is trained."""
    traces = [part for part in record["traces"] if isinstance(part, dict)] if isinstance(record.get("traces"), list) else []
    trained = [part for part in traces if _mapping(part.get("agent")).get("trainable") is not False]
    names = {_name(_mapping(part.get("agent")).get("name")) for part in trained}
    step = step_of(_mapping(_mapping(record.get("run")).get("work")))
    for part in trained:
        role = _name(_mapping(part.get("agent")).get("name")) if len(names) > 1 else ""
        yield from (row._replace(step=step, role=role) for row in trace(part))


def trace(record: Mapping[str, Any]) -> Iterator[Completion]:
    """Read a trace of verifiers: the messages before the first that was sampled are the prompt."""
    nodes = record.get("nodes")
    if not isinstance(nodes, list) or not all(isinstance(node, dict) for node in nodes) or len(nodes) > MOST_MESSAGES:
        raise NoCompletion("field 'nodes' is no list of messages")
    path = _branch(nodes)
    first = next((place for place, node in enumerate(path) if node.get("sampled") is True), None)
    if first is None:
        return
    messages = [node.get("message") for node in path]
    sampled = [node for node in path if node.get("sampled") is True]
    masks = [node["mask"] for node in sampled if isinstance(node.get("mask"), list)]
    tokens = sum(mask.count(True) for mask in masks)
    yield Completion(
        step_of(record),
        text(messages[:first], "prompt"),
        text(messages[first:], "completion"),
        _weighted(record.get("rewards")),
        float(tokens) if tokens else math.nan,
        _cut_trace(record),
    )


def _branch(nodes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the messages of the last branch, from its root."""
    path: list[Mapping[str, Any]] = []
    place: Any = len(nodes) - 1
    while type(place) is int and 0 <= place < len(nodes) and len(path) < len(nodes):
        path.append(nodes[place])
        place = nodes[place].get("parent")
    return path[::-1]


def _weighted(rewards: Any) -> float:
    """Sum the rewards of a trace; NaN if it has none, or if one of them is missing."""
    parts = []
    for name, reward in _mapping(rewards).items():
        score, weight = (reward.get("score"), reward.get("weight", 1.0)) if isinstance(reward, dict) else (reward, 1.0)
        parts.append(number(score, str(name)) * number(weight, str(name)))
    return sum(parts) if parts else math.nan


def _cut_trace(record: Mapping[str, Any]) -> bool | None:
    condition, listed = record.get("stop_condition"), record.get("calls")
    if isinstance(condition, str) and condition in STOPPED:
        return True
    calls = [call for call in listed if isinstance(call, dict) and call.get("error") is None] if isinstance(listed, list) else []
    return calls[-1].get("finish_reason") == "length" if calls else None


def step_of(record: Mapping[str, Any]) -> int | None:
    """Return the step of a record; None if it does not say."""
    value = record.get("step")
    return value if type(value) is int and 0 <= value < 1 << 53 else None


def number(value: Any, name: str) -> float:
    """Return a reward; NaN for one that is missing."""
    if value is None:
        return math.nan
    if not isinstance(value, (bool, int, float)):
        raise NoCompletion(f"field {printable(name, 40)!r} is no number")
    return finite_or_infinite(value)


def finite_or_infinite(value: float) -> float:
    """Return a number as a float; one beyond its range, as JSON can hold, is infinite."""
    return (math.inf if value > 0 else -math.inf) if abs(value) >= LARGEST else float(value)


def text(value: Any, name: str) -> str:
    """Return a text, or the contents of chat messages with their roles; of a single reply, only its content."""
    if isinstance(value, str):
        return clean(value)
    if not isinstance(value, list) or len(value) > MOST_MESSAGES or not all(isinstance(message, dict) for message in value):
        raise NoCompletion(f"field {name!r} is neither a text nor a list of chat messages")
    if len(value) == 1 and value[0].get("role") == "assistant" and not value[0].get("tool_calls"):
        return clean(_content(value[0].get("content")))
    return clean("\n\n".join(f"{_name(message.get('role')) or 'unknown'}: {_contents(message)}" for message in value))


def _contents(message: Mapping[str, Any]) -> str:
    calls = message.get("tool_calls")
    called = json.dumps(calls, ensure_ascii=False, default=str) if calls else ""
    return " ".join(filter(None, (_content(message.get("content")), called)))


def _content(content: Any) -> str:
    """Return the text of a message; parts of it that are no text are named by their type."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return "" if content is None else str(content)
    parts = [part if isinstance(part, dict) else {"text": str(part)} for part in content]
    return "".join(part["text"] if isinstance(part.get("text"), str) else f"[{_name(part.get('type')) or 'part'}]" for part in parts)


def clean(value: str) -> str:
    """Write half of a surrogate pair, which no table can hold, as an escape."""
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")


def _cut(record: Mapping[str, Any]) -> bool | None:
    """Tell whether a completion was cut, from what the trainers call it."""
    for name in ("ended", "finish_reason", "stop_reason"):
        if isinstance(record.get(name), str):
            return record[name] in CUT
    flag = next((record[name] for name in ("truncated", "is_truncated") if isinstance(record.get(name), bool)), None)
    return flag if isinstance(flag, bool) else None


def _length(ids: Any) -> float:
    return float(len(ids)) if isinstance(ids, list) else math.nan


def _ids(value: Any, name: str) -> list[int]:
    if not isinstance(value, list) or not all(type(one) is int for one in value):
        raise NoCompletion(f"field {name!r} is no list of token ids")
    return value


def _joined(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids))


def _name(value: Any) -> str:
    return sys.intern(printable(value, 40)) if isinstance(value, str) else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _first(record: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), None)

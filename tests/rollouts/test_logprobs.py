"""Bounds from the responses of servers, whose distributions are known here: every bound holds for every token."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.entropy import bounds, read_logprobs, read_token_logprobs
from dynamics.entropy.__main__ import cli
from dynamics.errors import InputError

VOCABULARY = 200
DATA = Path(__file__).parents[1] / "data" / "logprobs"


def distributions(count, rng, size=VOCABULARY):
    """Draw distributions, from flat to nearly certain, as log-probabilities."""
    logits = rng.normal(size=(count, size)) * rng.choice([0.3, 1.0, 3.0, 8.0], (count, 1))
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def entropies(log_p):
    return -(np.exp(log_p) * log_p).sum(-1)


def drawn(log_p, rng):
    return [int(rng.choice(len(row), p=np.exp(row) / np.exp(row).sum())) for row in log_p]


def likeliest(row, k):
    return [int(token) for token in np.argsort(-row, kind="stable")[:k]]


def with_sampled(row, sampled, k):
    """List the sampled token first and then the k likeliest, as vLLM does."""
    return [sampled, *(token for token in likeliest(row, k) if token != sampled)]


def name(token, names):
    return f"t{token % names}"


def completions(log_p, sampled, k, names=10**9, server="vllm"):
    """Write a text completion; with few ``names``, tokens of one text share an entry, and the last of them is kept."""
    tops = []
    for row, token in zip(log_p, sampled, strict=True):
        order = with_sampled(row, token, k) if server == "vllm" else likeliest(row, k)
        tops.append({name(one, names): float(row[one]) for one in order})
    chosen = [float(row[token]) for row, token in zip(log_p, sampled, strict=True)]
    return {"choices": [{"logprobs": {"tokens": [name(t, names) for t in sampled], "token_logprobs": chosen, "top_logprobs": tops}}]}


def chat(log_p, sampled, k, names=10**9, server="vllm"):
    content = []
    for row, token in zip(log_p, sampled, strict=True):
        order = with_sampled(row, token, k)[:k] if server == "vllm" else likeliest(row, k)
        top = [{"token": name(one, names), "logprob": float(row[one]), "bytes": None} for one in order]
        content.append({"token": name(token, names), "logprob": float(row[token]), "bytes": None, "top_logprobs": top})
    return {"choices": [{"message": {"content": "x"}, "logprobs": {"content": content}}]}


def appended(log_p, sampled, k, names=10**9):
    """List the k likeliest and then the sampled token under their texts, as llama-cpp-python does."""
    record = completions(log_p, sampled, k, names, "sglang")
    tops = record["choices"][0]["logprobs"]["top_logprobs"]
    for top, row, token in zip(tops, log_p, sampled, strict=True):
        top[name(token, names)] = float(row[token])
    return record


def as_chat(record):
    """Make the lists of a chat from the objects of a text completion."""
    old = record["choices"][0]["logprobs"]
    content = []
    for token, value, top in zip(old["tokens"], old["token_logprobs"], old["top_logprobs"], strict=True):
        content.append({"token": token, "logprob": value, "top_logprobs": [{"token": t, "logprob": v} for t, v in top.items()]})
    return {"choices": [{"logprobs": {"content": content}}]}


def by_id(log_p, sampled, k):
    """List tokens by id with ranks, as vLLM does for prompts and offline."""
    tops = []
    for row, token in zip(log_p, sampled, strict=True):
        ranks = {one: 1 + int((row > row[one]).sum()) for one in with_sampled(row, token, k)}
        tops.append({str(one): {"logprob": float(row[one]), "rank": rank, "decoded_token": "x"} for one, rank in ranks.items()})
    return tops


def triples(log_p, k):
    return [[[float(row[one]), one, None] for one in likeliest(row, k)] for row in log_p]


def sglang(log_p, sampled, k):
    chosen = [[float(row[token]), token, None] for row, token in zip(log_p, sampled, strict=True)]
    return {"text": "x", "meta_info": {"output_token_logprobs": chosen, "output_top_logprobs": triples(log_p, k)}}


def sglang_flat(log_p, _sampled, k):
    tops = [likeliest(row, k) for row in log_p]
    values = np.take_along_axis(log_p, np.array(tops), 1).astype("<f4")
    flat = {"output_top_logprobs_val_flat_b64": base64.b64encode(values.tobytes()).decode()}
    flat["output_top_logprobs_idx_flat_b64"] = base64.b64encode(np.array(tops, "<i4").tobytes()).decode()
    return {"meta_info": flat | {"output_top_logprobs_shape": [len(tops), k], "output_top_logprobs_null_prefix": 0}}


def tgi(log_p, _sampled, k):
    tops = [[{"id": one, "text": "x", "logprob": float(row[one]), "special": False} for one in likeliest(row, k)] for row in log_p]
    return [{"generated_text": "x", "details": {"tokens": [], "prefill": [], "top_tokens": tops}}]


def llama_cpp(log_p, sampled, k):
    rows = []
    for row, token in zip(log_p, sampled, strict=True):
        top = [{"id": one, "token": "x", "bytes": [], "logprob": float(row[one])} for one in likeliest(row, k)]
        rows.append({"id": token, "token": "x", "bytes": [], "logprob": float(row[token]), "top_logprobs": top})
    return {"content": "x", "completion_probabilities": rows}


def llama_cpp_after_sampling(log_p, _sampled, k):
    rows = [{"token": "x", "top_probs": [{"token": "x", "prob": float(np.exp(row[one]))} for one in likeliest(row, k)]} for row in log_p]
    return {"completion_probabilities": rows}


def llama_cpp_of_2024(log_p, _sampled, k):
    rows = [{"content": "x", "probs": [{"tok_str": "x", "prob": float(np.exp(row[one]))} for one in likeliest(row, k)]} for row in log_p]
    return {"completion_probabilities": rows}


def gemini(log_p, _sampled, k):
    tops = [
        {"candidates": [{"token": "x", "tokenId": one, "logProbability": float(row[one])} for one in likeliest(row, k)]} for row in log_p
    ]
    return {"candidates": [{"logprobsResult": {"topCandidates": tops}}]}


def batch(log_p, sampled, k):
    return {"custom_id": "a", "response": {"status_code": 200, "body": chat(log_p, sampled, k, server="openai")}, "error": None}


def responses(log_p, sampled, k):
    content = chat(log_p, sampled, k, server="openai")["choices"][0]["logprobs"]["content"]
    return {"object": "response", "output": [{"type": "message", "content": [{"type": "output_text", "text": "x", "logprobs": content}]}]}


WRITERS = {
    "vllm completions": completions,
    "vllm completions of ids": lambda p, s, k: json.loads(re.sub('"t([0-9])', r'"token_id:\1', json.dumps(completions(p, s, k)))),
    "vllm completions of shared texts": lambda p, s, k: completions(p, s, k, 40),
    "sglang completions": lambda p, s, k: completions(p, s, k, server="sglang"),
    "sglang completions of shared texts": lambda p, s, k: completions(p, s, k, 40, "sglang"),
    "sglang chat of shared texts": lambda p, s, k: as_chat(completions(p, s, k, 40, "sglang")),
    "llama-cpp-python completions": appended,
    "llama-cpp-python completions of shared texts": lambda p, s, k: appended(p, s, k, 40),
    "llama-cpp-python chat": lambda p, s, k: as_chat(appended(p, s, k)),
    "llama-cpp-python chat of shared texts": lambda p, s, k: as_chat(appended(p, s, k, 40)),
    "vllm chat": chat,
    "vllm chat of shared texts": lambda p, s, k: chat(p, s, k, 40),
    "openai chat": lambda p, s, k: chat(p, s, k, server="openai"),
    "openai batch": batch,
    "openai responses": responses,
    "vllm prompt": lambda p, s, k: {"choices": [{"prompt_logprobs": [None, *by_id(p, s, k)]}]},
    "vllm chat prompt": lambda p, s, k: {"choices": [{"logprobs": None}], "prompt_logprobs": [None, *by_id(p, s, k)]},
    "vllm offline": lambda p, s, k: {"prompt_logprobs": None, "outputs": [{"logprobs": by_id(p, s, k)}]},
    "sglang": sglang,
    "sglang list": lambda p, s, k: [sglang(p, s, k)],
    "sglang flat": sglang_flat,
    "sglang prompt": lambda p, _, k: {"meta_info": {"input_top_logprobs": [None, *triples(p, k)]}},
    "tgi": tgi,
    "llama.cpp": llama_cpp,
    "llama.cpp after sampling": llama_cpp_after_sampling,
    "llama.cpp of 2024": llama_cpp_of_2024,
    "ollama": lambda p, s, k: {"response": "x", "logprobs": chat(p, s, k, server="openai")["choices"][0]["logprobs"]["content"]},
    "gemini": gemini,
    "log": lambda p, s, k: {"id": 1, "prompt": "p", "response": chat(p, s, k), "raw_response": chat(p, s, k)},
}


def found(path, vocabulary=VOCABULARY):
    """Read the file, and bound the entropy of each token."""
    tokens, notes = read_token_logprobs(str(path))
    rows = np.full((len(tokens), max(len(token.values) for token in tokens)), np.nan)
    for index, token in enumerate(tokens):
        rows[index, : len(token.values)] = token.values
    return bounds(rows, vocabulary, [token.ceiling for token in tokens], [token.rounding for token in tokens]), notes, tokens


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("k", [1, 5, 20])
def test_bounds_hold_for_every_token(tmp_path, writer, k):
    rng = np.random.default_rng(k)
    log_p = distributions(60, rng)
    if "flat" in writer:
        log_p = log_p.astype(np.float32).astype(float)
    limits, _, tokens = found(write(tmp_path / "r.jsonl", WRITERS[writer](log_p, drawn(log_p, rng), k)))
    truth = entropies(log_p)
    assert len(truth) == len(limits.low)
    assert (limits.low <= truth + 1e-6).all()
    assert (truth <= limits.high + 1e-6).all()
    assert all(token.prompt == ("prompt" in writer) for token in tokens)
    if k == 5 and "shared" not in writer:  # they also say something
        assert (limits.high - limits.low).mean() < 1.5 * (entropies(log_p).mean())


@settings(max_examples=20)
@given(
    st.sampled_from(sorted(WRITERS)), st.integers(1, 12), st.integers(1, 30), st.sampled_from([12, 40, VOCABULARY]), st.integers(0, 2**31)
)
def test_bounds_hold_for_few_tokens_and_small_vocabularies(tmp_path_factory, writer, k, count, size, seed):
    rng = np.random.default_rng(seed)
    count += 30 * ("chat of shared texts" in writer)  # how many tokens were asked for shows in many lists only
    log_p = distributions(count, rng, size).astype(np.float32).astype(float)
    path = tmp_path_factory.getbasetemp() / "few.jsonl"
    limits, _, _ = found(write(path, WRITERS[writer](log_p, drawn(log_p, rng), min(k, size))), size)
    truth = entropies(log_p)
    assert (limits.low <= truth + 1e-6).all()
    assert (truth <= limits.high + 1e-6).all()


def test_prompt_tokens_are_reported_apart(tmp_path, capsys, monkeypatch):
    """An echoed prompt begins with null; the usage of the response says where it ends."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    log_p = distributions(50, rng)
    echo = completions(log_p, drawn(log_p, rng), 5)
    logprobs = echo["choices"][0]["logprobs"]
    logprobs["top_logprobs"].insert(0, None)
    logprobs["token_logprobs"].insert(0, None)
    logprobs["tokens"].insert(0, "<s>")
    told = echo | {"usage": {"prompt_tokens": 21, "completion_tokens": 30}}
    _, _, tokens = found(write(tmp_path / "echo.jsonl", told))
    assert [token.prompt for token in tokens] == [True] * 20 + [False] * 30
    assert len(read_logprobs("echo.jsonl")) == 30
    assert cli(["logprobs", "echo.jsonl", "--vocabulary", str(VOCABULARY), "--json", "o.json"]) == 0
    assert "\nprompt: 20 tokens with up to 6" in capsys.readouterr().out
    report = json.loads((tmp_path / "o.json").read_text())
    truth = entropies(log_p)
    assert (report["tokens"], report["prompt"]["tokens"]) == (30, 20)
    assert report["mean_entropy"]["low"] <= truth[20:].mean() <= report["mean_entropy"]["high"]
    assert report["prompt"]["mean_entropy"]["low"] <= truth[:20].mean() <= report["prompt"]["mean_entropy"]["high"]
    for names in ("tokens", "token_logprobs"):  # a server that leaves the first token out of these
        del logprobs[names][0]
    limits, notes, tokens = found(write(tmp_path / "echo.jsonl", echo))
    assert len(tokens) == 50
    assert (limits.low <= truth).all()
    assert "begins with a token without log-probabilities" in " ".join(notes)


def test_values_that_are_none_are_left_out(tmp_path):
    """The mass of a nucleus is 1, and its other tokens have -9999, -inf or null; a sampled token of -9999 is in no list."""
    for nothing in (-9999.0, None, -np.inf, -3.4e38, "nan"):
        top = [{"token": t, "logprob": v} for t, v in (("a", float(np.log(0.75))), ("b", float(np.log(0.25))), ("c", nothing))]
        content = [
            {"token": "a", "logprob": float(np.log(0.75)), "top_logprobs": top},
            {"token": "z", "logprob": -9999.0, "top_logprobs": top},
        ]
        limits, _, _ = found(write(tmp_path / "r.jsonl", {"choices": [{"logprobs": {"content": content}}]}))
        assert np.allclose(limits.low, -(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
        assert np.allclose(limits.high, limits.low)


def test_failed_requests_and_tokens_without_lists_are_counted(tmp_path):
    rng = np.random.default_rng(0)
    log_p = distributions(9, rng)
    good = batch(log_p, drawn(log_p, rng), 5)
    good["response"]["body"]["choices"][0]["logprobs"]["content"][3]["top_logprobs"] = []
    refused = {"custom_id": "b", "response": {"status_code": 400, "body": {"error": {"message": "x"}}}, "error": None}
    expired = {"custom_id": "c", "response": None, "error": {"code": "batch_expired"}}
    _, notes, tokens = found(write(tmp_path / "b.jsonl", refused, good, expired))
    assert len(tokens) == 8
    assert "2 failed requests left out" in notes[0]
    assert "1 token without top log-probabilities left out" in notes[1]
    with pytest.raises(InputError, match="2 failed requests and no response"):
        read_token_logprobs(str(write(tmp_path / "b.jsonl", refused, expired)))


def test_lists_of_chosen_tokens_bound_nothing(tmp_path):
    """Log-probabilities that were asked for by token ids are not of the likeliest tokens."""
    rng = np.random.default_rng(1)
    log_p = distributions(30, rng)
    record = {"choices": [{"logprobs": {"content": []}}]}
    for row, token in zip(log_p, drawn(log_p, rng), strict=True):
        listed = [{"token": f"t{one}", "logprob": float(row[one])} for one in [token, *sorted(likeliest(row, 60)[20:50:4])]]
        record["choices"][0]["logprobs"]["content"].append({"token": f"t{token}", "logprob": float(row[token]), "top_logprobs": listed})
    limits, notes, _ = found(write(tmp_path / "r.jsonl", record))
    assert (limits.low <= entropies(log_p)).all()
    assert "not certain to be that of the likeliest" in notes[-1]


def test_a_sampled_value_of_another_distribution_takes_the_ceiling_away(tmp_path):
    content = [{"token": "z", "logprob": -0.2, "top_logprobs": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -3.0}]}]
    _, _, tokens = found(write(tmp_path / "r.jsonl", {"choices": [{"logprobs": {"content": content}}]}))
    assert tokens[0].ceiling == 0


@pytest.mark.parametrize("decimals", [3, 4, 6])
def test_rounding_is_allowed_for(tmp_path, decimals):
    rng = np.random.default_rng(decimals)
    log_p = distributions(200, rng)
    record = chat(np.round(log_p, decimals), drawn(log_p, rng), 8, server="openai")
    limits, _, _ = found(write(tmp_path / "r.jsonl", record))
    assert (limits.low <= entropies(log_p)).all()
    assert (entropies(log_p) <= limits.high).all()


def test_float32_that_rounds_to_certainty(tmp_path):
    """A probability of 1 - 3e-8 is 1 in float32."""
    log_p = np.log(np.array([1 - 3e-8] + [3e-8 / (VOCABULARY - 1)] * (VOCABULARY - 1)))
    rows = np.tile(log_p, (5, 1))
    record = chat(rows.astype(np.float32), [0] * 5, 5)
    limits, _, _ = found(write(tmp_path / "r.jsonl", record))
    assert (entropies(rows) <= limits.high).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_refused(tmp_path, dtype):
    rng = np.random.default_rng(0)
    log_p = distributions(20, rng).astype(np.float32)
    coarse = log_p.astype(np.float16) if dtype == "float16" else (log_p.view(np.uint32) & 0xFFFF0000).view(np.float32)
    path = write(tmp_path / "r.jsonl", chat(coarse.astype(float), drawn(log_p, rng), 5, server="openai"))
    with pytest.raises(InputError, match=f"in {dtype}, too coarse"):
        read_token_logprobs(str(path))


@pytest.mark.parametrize(
    "record",
    [
        {"meta_info": {"output_token_logprobs": [[-0.1, 5, None]], "output_top_logprobs": []}},
        {"choices": [{"logprobs": {"content": [{"token": "a", "logprob": -0.1, "top_logprobs": []}]}}]},
        {"choices": [{"logprobs": None}]},
        {"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": "a"}]}]}}]},
        {"details": {"tokens": [{"id": 1, "logprob": -0.1}], "top_tokens": None}},
        [],
        3,
        {},
    ],
)
def test_responses_without_lists_are_refused(tmp_path, record):
    with pytest.raises(InputError, match=r"r\.jsonl, line 1: has no top log-probabilities; ask the server"):
        read_token_logprobs(str(write(tmp_path / "r.jsonl", record)))


def test_a_vocabulary_that_is_too_small_is_refused():
    with pytest.raises(InputError, match=r"cannot have the remaining 0\.7"):
        bounds([[np.log(0.2), np.log(0.1)]], 5)
    with pytest.raises(InputError, match=r"cannot have the remaining 0\.5"):
        bounds([[np.log(0.5)]], 1)


@settings(max_examples=20)
@given(st.integers(2, 60), st.integers(0, 6), st.floats(0.1, 8), st.floats(0, 1e-3), st.integers(0, 2**31))
def test_bounds_allow_for_rounding_and_a_ceiling(size, k, spread, rounding, seed):
    """With the k likeliest and one more token known, each off by as much as is allowed."""
    rng = np.random.default_rng(seed)
    log_p = np.sort(distributions(1, rng, size)[0] * spread)[::-1]
    log_p = log_p - np.log(np.exp(log_p).sum())
    k = min(k, size - 1)
    other = int(rng.integers(k, size))
    given_values = np.append(log_p[:k], log_p[other])
    given_values = np.minimum(given_values + rng.uniform(-1, 1, k + 1) * rounding * (1 + np.abs(given_values)) / 1.01, 0.0)
    limit = log_p[k - 1] if k else 0.0
    limits = bounds(given_values[None], size, [limit], rounding)
    truth = float(entropies(log_p))
    assert limits.low[0] <= truth + 1e-9
    assert truth <= limits.high[0] + 1e-9


#: responses that the code of vLLM 0.33.0 and SGLang 0.5.23 formed, with the entropies of their tokens
WRITTEN = json.loads((DATA / "responses.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [name for name in WRITTEN if name not in ("vocabulary", "entropy")])
def test_bounds_of_what_servers_write(tmp_path, name):
    limits, notes, tokens = found(write(tmp_path / "r.jsonl", WRITTEN[name]), WRITTEN["vocabulary"])
    truth = np.array(WRITTEN["entropy"])
    assert len(tokens) == len(truth)
    assert (limits.low <= truth).all()
    assert (truth <= limits.high).all()
    assert np.mean([token.ceiling < 0 for token in tokens]) >= (0.6 if name.endswith(("completions", "echo")) else 1.0)
    assert [token.prompt for token in tokens].count(True) == {"vllm_prompt": 16, "sglang_input": 16, "vllm_echo": 6}.get(name, 0)
    assert any("SGLang divides" in note for note in notes) == name.startswith("sglang_generate")


@pytest.mark.slow
def test_servers_still_write_this(tmp_path, monkeypatch):
    """With vllm and sglang installed, without their requirements."""
    if any(importlib.util.find_spec(package) is None for package in ("vllm", "sglang")):
        pytest.skip("vllm and sglang are not installed")
    specification = importlib.util.spec_from_file_location("make_responses", DATA / "make_responses.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    module.main()
    assert json.loads((tmp_path / "responses.json").read_text(encoding="utf-8")) == WRITTEN

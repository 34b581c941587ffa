"""Runs that are killed, again and again, and resumed: every method ends with the bits of a run that was never interrupted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from train.helpers import contents
from train.killed_at import train

SMALL = (
    "--steps 4 --save-every 2 --eval-problems 4 --eval-samples 2 --eval-temperatures 1 --probe-every 2 --threads 1 --device cpu "
    "--validate-every 2 --validation-problems 4 --validation-samples 1 --learning-rate 1e-3"
)
TASKS = "--prompts-per-step 4 --group-size 4 --max-new-tokens 8 --max-proposal-tokens 40 --num-seed-tasks 6"
#: options of each case; those without --model are of the laboratory, whose base is shipped
CASES = {
    "sft": "sft --model BASE --batch-size 8 --num-problems 40",
    "rlvr": "rlvr --model BASE --prompts-per-step 12 --group-size 6 --max-new-tokens 8 --num-problems 40",
    "selfplay": f"selfplay --model BASE {TASKS}",
    "selfplay-two": f"selfplay --players two --model BASE {TASKS} --curriculum-samples 2",
    "pasodoble": f"pasodoble --model BASE {TASKS} --proposals-per-passage 3".replace("--num-seed-tasks 6", ""),
    "spc": "spc --attempts 10 --batch-size 6 --max-new-tokens 24 --critic-problems 6",
    "seirenes": "seirenes --prompts-per-step 3 --group-size 4 --num-hints 2 --hinted-samples 3 --num-problems 6 --max-new-tokens 40 "
    "--trained-share 0.2 --waiting-groups 4 --mastered-after 1 --mastered-rate 0.3 --robustness-problems 3 --robustness-samples 2",
    "populora": f"populora --model BASE {TASKS} --lora-rank 2 --evolve-every 1 --curriculum-samples 2",
}
#: files that a game writes when it has trained
AFTERWARDS = {"spc": "critic.jsonl", "seirenes": "robustness.jsonl", "populora": "lineage.jsonl", "selfplay-two": "curriculum.jsonl"}
#: parts of run.json that tell of the process, not of the run
OF_THE_PROCESS = {"time", "notes", "base_samples"}


def moments(events: list[str], seed: int) -> list[str]:
    """Choose when to be killed, from the changes on disk of a whole run, in their order.

    Three are drawn from the beginning, the middle and the end; others are when the run has no ``run.json`` yet, while a state is saved, and
    when the resumed run after that one removes what came after its state.
    """
    once = [event for event, count in Counter(events).items() if count == 1 and not event.startswith("os.remove")]
    rng = np.random.default_rng(seed)
    drawn = [str(rng.choice(part)) for part in np.array_split(np.array(once), 3)]
    saving = "open state/.step_000002.*.partial/state.json"
    chosen = sorted({*drawn, saving}, key=events.index)
    chosen.insert(chosen.index(saving) + 1, "os.rename metrics.jsonl")
    return ["os.rename run.json", *chosen]


def states(out: Path) -> dict[str, object]:
    """Read the saved states: of the method, and the tensors of the players."""
    found: dict[str, object] = {}
    for folder in (out / "state").iterdir():
        found[folder.name] = json.loads((folder / "state.json").read_text())
        found[f"{folder.name} tensors"] = flat(torch.load(folder / "state.pt", weights_only=True))
    return found


def flat(value: object, name: str = "") -> dict[str, object]:
    """List the leaves of nested dictionaries and lists by name; tensors as their bytes."""
    if isinstance(value, dict):
        return {key: leaf for part, inner in value.items() for key, leaf in flat(inner, f"{name}/{part}").items()}
    if isinstance(value, list | tuple):
        return flat(dict(enumerate(value)), name)
    return {name: (str(value.dtype), tuple(value.shape), value.numpy().tobytes()) if isinstance(value, torch.Tensor) else value}


def described(out: Path) -> dict[str, object]:
    """Return ``run.json`` without what tells of the process."""
    document = json.loads((out / "run.json").read_text())
    return {name: value for name, value in document.items() if name not in OF_THE_PROCESS}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_at_any_moment_and_resumed_is_the_same_to_the_bit(case: str, base: Path, tmp_path: Path) -> None:
    if case == "populora":
        pytest.importorskip("trueskillthroughtime")
    options = [*CASES[case].replace("BASE", str(base)).split(), *SMALL.split()]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    events = train(options, straight)
    steps = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    assert sum(step.get("tokens_with_gradient", 0) > 0 for step in steps) >= 2
    chosen = moments(events, list(CASES).index(case))
    if case in AFTERWARDS:
        chosen.append(f"os.rename {AFTERWARDS[case]}")
    for moment in chosen:
        train(options, killed, moment)
        for file in killed.rglob("metrics.jsonl"):  # the process may have been killed while it wrote the next line
            with file.open("a") as torn:
                torn.write('{"step": ')
    train(options, killed)
    whole, resumed = contents(straight), contents(killed)
    assert whole.keys() == resumed.keys()
    for name in whole:
        assert resumed[name] == whole[name], (name, chosen)
    assert states(killed) == states(straight)
    assert described(killed) == described(straight)

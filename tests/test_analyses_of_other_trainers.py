"""The analyses on the output directories of two runs of TRL: what is drawn, what is left out by name, what is refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analyses import analysis, comparison, entropy_dynamics, runs, update_sparsity
from dynamics import InputError
from dynamics.presentation import style

RUNS = Path(__file__).parent / "data" / "runs"
PAIR = [RUNS / "trl_grpo", RUNS / "trl_sft"]
#: analysis -> a part of the reason why it draws nothing of two runs without bases and graded samples
REFUSED = {
    "pass_at_k": "graded samples",
    "support": "none of the runs has evals/",
    "controls": "no control among grpo, sft",
    "update_sparsity": "trl_grpo has no base on this machine (its files name none)",
    "confound": "trl_sft has no base on this machine",
    "variance": "runs that differ in one of",
    "uncertainty": "trl_grpo has no base on this machine",
    "curriculum": "no self-play run",
    "proposer_variants": "needs self-play runs",
    "update_shape": "trl_grpo has no base on this machine",
    "learnt_and_lost": "graded samples",
    "forgetting": "trl_grpo has no base on this machine",
}


def test_runs_of_trl_are_read_as_runs() -> None:
    sft, grpo = runs.find(PAIR)
    assert [(run.label, run.seed, len(run.metrics)) for run in (sft, grpo)] == [("sft", 7, 12), ("grpo", 7, 12)]
    assert grpo.learning_rate == pytest.approx(0.003)
    assert {"entropy", "reward", "loss"} <= set(grpo.metrics)
    assert not sft.has_weights
    assert grpo.lacks == [
        "no base on this machine (its files name none)",
        "no graded samples (evals/)",
        "no metrics but those that TRL GRPOTrainer logged",
    ]
    (adapter,) = runs.find([RUNS / "trl_lora"])
    assert adapter.lacks[0] == "adapters as checkpoints, to be merged into their base"


@pytest.mark.parametrize("module", comparison.QUESTIONS, ids=analysis.name_of)
def test_every_analysis_draws_or_says_why_not(module: analysis.Analysis) -> None:
    found = runs.find(PAIR)
    name = analysis.name_of(module)
    if name not in REFUSED:
        with style.use_style():
            figure = module.figure(module.measure(found))
        assert all(ax.has_data() for ax in figure.axes)
        return
    with pytest.raises(InputError) as caught:
        module.measure(found)
    assert REFUSED[name] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_names_missing_panels_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert analysis.main(entropy_dynamics, [*map(str, PAIR), "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "Left out: fixed problems, on which no run was probed during training; roles of self-play" in told
    assert "Entropy of TRL GRPOTrainer, TRL SFTTrainer is what the trainer logged, at its own temperature." in told
    assert "1 seed " in told
    table = pd.read_csv(tmp_path / "entropy_dynamics.csv")
    with style.use_style():
        figure = entropy_dynamics.figure(table)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["own data", "reward by entropy"]
    assert entropy_dynamics.caption(table) in told


def test_a_run_that_is_left_out_is_named_with_what_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(RUNS / name) for name in ("own/sft", "own/rlvr", "trl_grpo")]
    assert analysis.main(update_sparsity, [*folders, "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "left out: grpo, with no base on this machine (its files name none); no graded samples" in told
    assert "left out: sft" not in told


def test_a_folder_of_no_trainer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not the output directory of a known trainer"):
        runs.find([tmp_path])

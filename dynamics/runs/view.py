"""One view of the output directory of a training run, whichever trainer wrote it.

``open_run`` in ``dynamics.runs`` finds out which trainer wrote a directory, and fills a ``Run`` with what the files say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from dynamics.runs.matching import Matching

#: names of metrics, whatever a trainer calls them -> what they are; a trainer's metric that is none of them keeps its own name
METRICS = {
    "reward": "mean reward of the samples of a step",
    "reward_std": "standard deviation of the rewards, as the trainer defines it",
    "zero_variance": "fraction of groups whose samples all have the same reward",
    "held_out": "reward or accuracy on problems that are not trained on",
    "loss": "training loss",
    "held_out_loss": "loss on texts that are not trained on",
    "entropy": "mean entropy of the policy per token in nats",
    "kl": "estimate of the divergence from the reference policy per token in nats",
    "length": "mean length of a completion in tokens",
    "truncated": "fraction of completions that were cut at the limit of tokens",
    "clip_fraction": "fraction of tokens whose ratio was clipped",
    "mismatch": "difference between the sampler's and the trainer's log-probabilities, in the trainer's unit",
    "grad_norm": "norm of the gradient before clipping",
    "learning_rate": "learning rate",
}


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint that a run has saved.

    Attributes
    ----------
    step : optimizer step; None if its name does not say.
    path : what ``dynamics.checkpoints.open_checkpoint`` opens.
    adapter : whether it is a LoRA adapter, which changes its base.
    """

    step: int | None
    path: Path
    adapter: bool = False


@dataclass(frozen=True)
class RolloutFile:
    """A file of sampled completions.

    Attributes
    ----------
    step : optimizer step of all of its samples; None if the samples say themselves, or nothing does.
    path : JSON lines or Parquet.
    held_out : whether the prompts are of problems that are not trained on.
    """

    step: int | None
    path: Path
    held_out: bool = False


@dataclass(frozen=True)
class Settings:
    """Settings that explain differences between runs, as far as the files say; None where they do not.

    Attributes
    ----------
    learning_rate : the largest of the schedule.
    steps : optimizer steps that were made, or planned if the files do not say how many were made.
    batch_size : samples, or texts, per optimizer step over all processes.
    group_size : samples per prompt.
    master_dtype : dtype of the weights that the optimizer updates.
    storage_dtype : dtype of the saved weights, as the settings say.
    temperature : of sampling.
    kl_coef : weight of the divergence from the reference policy.
    seed : random seed.
    """

    learning_rate: float | None = None
    steps: int | None = None
    batch_size: int | None = None
    group_size: int | None = None
    master_dtype: str | None = None
    storage_dtype: str | None = None
    temperature: float | None = None
    kl_coef: float | None = None
    seed: int | None = None


@dataclass
class Run:
    """A run, as its directory shows it.

    Attributes
    ----------
    path : the directory.
    trainer : the library and its class or program, such as ``TRL GRPOTrainer`` or ``verl``.
    method : ``sft``, ``grpo``, ``ppo``, ``dpo``, ``selfplay``, ... in lower case; None if nothing says it.
    evidence : the file that shows who wrote the directory.
    base : path or Hub id of the model that training started from; None if no file says it.
    base_from : the file that says so, and the name of the setting.
    checkpoints : complete ones, by step.
    settings : those that many trainers share.
    config : all settings by name, nested ones with dots, plain values only.
    metrics : table with the columns ``step`` (int), ``name`` (a key of ``METRICS``, or the trainer's own name), ``value`` (float); a row a
        value, in the order of the file. A step that was logged again after a resume counts as logged last.
    metric_names : key of ``METRICS`` -> what the trainer calls it.
    rollouts : files of samples, by step.
    validation : files of graded answers to validation problems during training, by step.
    evals : files of graded samples that ``dynamics.samples.read`` reads.
    texts : files of texts that were trained on or generated, for measurements with the model.
    notes : what was left out and why, a line each; each makes the report incomplete.
    remarks : what the reader should know of the files, and what is no fault of them.
    matching : what the run was made with, if ``dynamics.train`` wrote it; of others ``matched_settings.matching_of`` knows less.
    """

    path: Path
    trainer: str
    method: str | None = None
    evidence: str = ""
    base: str | None = None
    base_from: str = ""
    checkpoints: list[SavedCheckpoint] = field(default_factory=list)
    settings: Settings = field(default_factory=Settings)
    config: dict[str, Any] = field(default_factory=dict)
    metrics: pd.DataFrame = field(default_factory=lambda: metrics_table([]))
    metric_names: dict[str, str] = field(default_factory=dict)
    rollouts: list[RolloutFile] = field(default_factory=list)
    validation: list[RolloutFile] = field(default_factory=list)
    evals: list[Path] = field(default_factory=list)
    texts: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    matching: Matching | None = None

    def series(self, name: str) -> pd.Series[float]:
        """Return a metric by step, ascending; empty if the run has none of this name. The last value of a step counts."""
        rows = self.metrics[self.metrics["name"] == name]
        return rows.drop_duplicates("step", keep="last").set_index("step")["value"].sort_index()


def metrics_table(rows: list[tuple[int, str, float]]) -> pd.DataFrame:
    """Make the table of metrics from (step, name, value)."""
    table = pd.DataFrame(rows, columns=["step", "name", "value"])
    return table.astype({"step": "int64", "name": "object", "value": "float64"})

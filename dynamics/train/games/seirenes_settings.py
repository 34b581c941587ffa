"""Settings of the game Seirênes. It imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from dynamics.errors import InputError
from dynamics.train.config import ALL_OF_LAB, LossAggregation, PolicyGradientConfig, presets
from dynamics.train.tasks.problem import Source
from dynamics.train.tasks.prompt_formats import LanguageName

#: estimators that compare the samples of a prompt, by which a group without variance is known to have no gradient
GroupAdvantage = Literal["grpo", "dr_grpo", "rloo"]

#: what third-party notes say of the paper's runs (arXiv 2605.11636), where this project has an option for it
PAPER: dict[str, Any] = {"advantage": "grpo", "adversary_reward": "indicator"}


@dataclass(frozen=True)
class SeirenesConfig(PolicyGradientConfig):
    """Seirênes: one model answers problems, writes misleading hints to them, and answers under these hints.

    Attributes
    ----------
    advantage : str
        advantage estimator of each of the three streams, within the samples of a prompt
    num_problems : int
        number of training problems; they are reshuffled every epoch
    prompts_per_step : int
        number of problems per step
    group_size : int
        number of answers to a problem without a hint
    num_hints : int
        number of hints to a problem
    hinted_samples : int
        number of answers to a problem under each hint
    max_hint_tokens : int
        maximum length of a hint in tokens
    adversary_reward : str
        reward of a hint: indicator (1 if fewer answers are right under it than without it, else 0), or drop (the share of right answers
        without it minus that under it)
    invalid_hint_reward : float
        reward of a hint that cannot be shown
    adversary : str
        training of the adversary: trained, frozen (hints get no gradient, but the shared weights still change), snapshot (the base model
        writes the hints), or none (no hints: all samples are answers without one, RLVR at equal samples)
    clean_answers : str
        answers without a hint: trained, or measured (they only say how hard a problem is: no clean stream)
    solver_weight : float
        weight of the advantages of answers without a hint
    adversary_weight : float
        weight of the advantages of hints
    hinted_weight : float
        weight of the advantages of answers under a hint
    trained_share : float
        share of the groups of a stream that it trains on in a step, at most, of those whose rewards differ; what is beyond it waits
    waiting_groups : int
        number of groups of a stream that can wait for a step with too few groups; the oldest are dropped; 0: none waits, and all are
        trained on at once
    waiting_steps : int
        number of steps after which a group that waits is dropped
    mastered_after : int
        number of consecutive visits with only right answers after which a problem is mastered, and rarely asked; 0: none ever is
    mastered_rate : float
        probability with which a mastered problem is asked when its turn comes
    robustness_problems : int
        number of held-out problems that base and trained model are asked under fixed hints after training; 0: none
    robustness_samples : int
        number of answers to each of them, without a hint and under each
    """

    presets = presets(
        {"task": "chain_sum", "prompts_per_step": 4, "robustness_problems": 32, "robustness_samples": 4},
        {
            "task": "lab-deduction",
            "num_problems": ALL_OF_LAB,
            "prompts_per_step": 6,
            "group_size": 8,
            "num_hints": 4,
            "hinted_samples": 3,
            "loss_aggregation": "role-task-mean",
        },
        paper=PAPER,
    )

    model: str = "lab"
    task: str = "lab-deduction"
    advantage: GroupAdvantage = "grpo"
    loss_aggregation: LossAggregation = "role-task-mean"
    max_new_tokens: int = 120
    num_problems: int = 2048
    prompts_per_step: int = 6
    group_size: int = 8
    num_hints: int = 4
    hinted_samples: int = 4
    max_hint_tokens: int = 48
    adversary_reward: Literal["indicator", "drop"] = "indicator"
    invalid_hint_reward: float = 0.0
    adversary: Literal["trained", "frozen", "snapshot", "none"] = "trained"
    clean_answers: Literal["trained", "measured"] = "trained"
    solver_weight: float = 1.0
    adversary_weight: float = 1.0
    hinted_weight: float = 1.0
    trained_share: float = 0.75
    waiting_groups: int = 16
    waiting_steps: int = 8
    mastered_after: int = 3
    mastered_rate: float = 0.1
    robustness_problems: int = 200
    robustness_samples: int = 8

    @property
    def answers_and_hints(self) -> int:
        """Completions of a problem in a step: answers without a hint, hints, and answers under these, if all can be shown."""
        return self.group_size + self.num_hints * (1 + self.hinted_samples)

    def check_settings(self) -> None:
        """Check what depends on several settings."""
        super().check_settings()
        for name in ("num_hints", "hinted_samples", "max_hint_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 1; --adversary none has no hints")
        for name, of in (("solver_weight", "--clean-answers measured"), ("adversary_weight", "--adversary frozen"), ("hinted_weight", "")):
            if not getattr(self, name):
                raise InputError(f"--{name.replace('_', '-')} 0: must be above 0" + (f"; {of} trains without this stream" if of else ""))
        for name in ("trained_share", "mastered_rate"):
            if getattr(self, name) > 1:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name):g}: must be at most 1")
        if not self.trained_share:
            raise InputError("--trained-share 0: nothing would be trained on; must be above 0")
        if self.adversary == "none" and self.clean_answers == "measured":
            raise InputError("--clean-answers measured: --adversary none has no other answers to train on; leave one of them out")
        if self.robustness_problems and not self.robustness_samples:
            raise InputError("--robustness-samples 0: must be at least 1; --robustness-problems 0 leaves the measurement out")

    @property
    def judged_problems(self) -> int:
        """All."""
        return self.num_problems

    def check_source(self, source: Source, speaks: LanguageName) -> None:
        """Refuse a task or a model without hints."""
        from dynamics.train.games.hints import check_task
        from dynamics.train.tasks import parts
        from dynamics.train.tasks.laboratory import Laboratory

        asked = getattr(source, "of", source)  # of recorded problems, the task of that run
        forms = [form for part in parts(asked) if isinstance(part, Laboratory) for form in part.forms]
        check_task(self.task, self.model, speaks, forms)

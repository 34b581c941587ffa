"""Settings of PopuLoRA. It imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dynamics.errors import InputError, printable
from dynamics.extras import optional_import
from dynamics.train.config import SelfPlayAdvantage, TaskMakingConfig, option_of, presets
from dynamics.train.tasks.problem import Source
from dynamics.train.tasks.prompt_formats import LanguageName

OperatorName = Literal[
    "svd-noise", "selected-noise", "drop-components", "full-noise", "dare", "layer-swap", "subspace-mix", "extrapolation"
]
#: names of the operators of ``evolution.OPERATORS`` that take one parent
MUTATIONS: tuple[OperatorName, ...] = ("svd-noise", "selected-noise", "drop-components", "full-noise")
_CROSSOVERS: tuple[OperatorName, ...] = ("dare", "layer-swap", "subspace-mix", "extrapolation")


@dataclass(frozen=True)
class PopuLoRAConfig(TaskMakingConfig):
    """PopuLoRA: populations of teachers, which propose tasks, and of students, which solve them; all are LoRA adapters on one frozen base.

    Attributes
    ----------
    population : str
        separate (teachers and students), or one (a single adapter has both roles: the control)
    teachers : int
        number of teachers
    students : int
        number of students
    lora_rank : int
        rank of the adapters
    lora_alpha : float
        updates are scaled by alpha / rank; 0: twice the rank
    pairing : str
        how teachers and students are paired in a step: rated (even matches are likelier, by p(1 - p) of the ratings), or uniform
    evolve_every : int
        steps after which the lowest rated of each population are replaced by children of the best; 0: never
    evolved_share : float
        share of each population that is replaced, at least one player
    operators : tuple of str
        operators of which one is drawn for each child; those that take two parents are drawn only where two players are kept
    advantage : str
        advantage estimator of the students, over all of them
    teacher_advantage : str
        advantage estimator of the teachers, over all of them
    proposer : str
        training of the teachers: trained, frozen (no gradient, but evolution), or snapshot (the base model proposes for all)
    """

    presets = presets(
        {"prompts_per_step": 4, "num_references": 2, "max_proposal_tokens": 128, "lora_rank": 8},
        {"task_types": ("deduction", "abduction"), "prompts_per_step": 8, "group_size": 8},
        paper={
            "teachers": 4,
            "students": 4,
            "lora_rank": 32,
            "steps": 200,
            "prompts_per_step": 64,
            "group_size": 8,
            "num_references": 6,
            "learning_rate": 1e-6,
            "buffer_size": 16384,
            "num_seed_tasks": 256,
            "max_new_tokens": 8096,
            "max_proposal_tokens": 8096,
            "warmup_steps": 0,
            "adam_beta2": 0.999,
        },
    )

    population: Literal["separate", "one"] = "separate"
    teachers: int = 2
    students: int = 2
    lora_rank: int = 4
    lora_alpha: float = 0.0
    pairing: Literal["rated", "uniform"] = "rated"
    evolve_every: int = 10
    evolved_share: float = 0.25
    operators: tuple[OperatorName, ...] = (*MUTATIONS, *_CROSSOVERS)
    advantage: SelfPlayAdvantage = "reinforce++-baseline"
    teacher_advantage: SelfPlayAdvantage = "reinforce++-sequence"
    wrong_answer_reward: float = -0.5
    format_error_reward: float = -1.0

    @property
    def matches(self) -> int:
        """Number of matches in a step: each player of the larger population plays once."""
        return 1 if self.population == "one" else max(self.teachers, self.students)

    def replaced(self, size: int) -> int:
        """Return how many players of a population are replaced; at least one is kept."""
        return min(size - 1, max(1, int(self.evolved_share * size)))

    def applicable(self, size: int) -> tuple[str, ...]:
        """Return the operators that have enough parents among the players that a population of this size keeps."""
        kept = size - self.replaced(size)
        return tuple(name for name in self.operators if kept >= 2 or name in MUTATIONS)

    def check_settings(self) -> None:
        """Check what depends on several settings."""
        super().check_settings()
        for name in ("teachers", "students", "lora_rank"):
            if getattr(self, name) < 1:
                why = "; --population one has an adapter for both roles" if name == "teachers" else ""
                raise InputError(f"{option_of(name)} {getattr(self, name)}: must be at least 1{why}")
        if self.master_dtype != "float32":
            raise InputError(f"--master-dtype {self.master_dtype}: LoRA needs float32; leave it out")
        if self.population == "one" and self.proposer == "snapshot":
            raise InputError("--population one --proposer snapshot: the adapter would not propose; use --population separate --teachers 1")
        if self.prompts_per_step % self.matches:
            raise InputError(
                f"--prompts-per-step {self.prompts_per_step}: must be a multiple of {self.matches}, the matches of a step (the larger of "
                "--teachers and --students)"
            )
        if not 0 < self.evolved_share < 1:
            raise InputError(f"--evolved-share {self.evolved_share:g}: is a share, must be above 0 and below 1; --evolve-every 0 is none")
        if self.population == "separate" and self.evolve_every:
            sizes = {"students": self.students} | ({} if self.proposer == "snapshot" else {"teachers": self.teachers})
            for name, size in sizes.items():
                if size > 1 and not self.applicable(size):
                    raise InputError(
                        f"--operators {' '.join(self.operators)}: of {size} {name} one is kept, and these take two parents; add one of "
                        f"{', '.join(MUTATIONS)}, or use more {name}"
                    )

    def check_source(self, source: Source, speaks: LanguageName) -> None:
        """Check that players can be rated, and that the task has validation problems by which the best student is chosen."""
        del speaks
        if self.population == "one":
            return
        with optional_import("rating players"):
            import trueskillthroughtime  # noqa: F401
        if not source.questions("validation", 1, self.seed):
            raise InputError(
                f"--task {printable(self.task, 80)}: has no validation problems, by which populora chooses the student that is graded; "
                "choose another task"
            )

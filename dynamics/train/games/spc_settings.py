"""Settings of SPC, the game of a critic and a generator of wrong steps. It imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dynamics.errors import InputError, printable
from dynamics.train.config import PolicyGradientConfig, option_of, presets
from dynamics.train.tasks.problem import Source
from dynamics.train.tasks.prompt_formats import LanguageName

#: why a model cannot play
NO_FORM = (
    "--model {model}: reads the notation of the embedded model, which has no form for judging steps; use --model lab, or another model"
)
#: what the public code of SPC sets; what it leaves open is as in the defaults
PAPER = {
    "learning_rate": 2e-6,
    "batch_size": 64,
    "rounds": 2,
    "sft_weight": 0.15,
    "round_start": "base",
    "opponents": "different",
    "loss_aggregation": "sequence-mean",
    "warmup_steps": 0,
    "role_weights": "balanced",
}


@dataclass(frozen=True)
class SPCConfig(PolicyGradientConfig):
    """SPC: a generator writes wrong steps of solutions, a critic tells them from right ones; what one wins, the other loses.

    Attributes
    ----------
    model : str
        model to train: lab (the base of the laboratory), smollm2, a Hugging Face folder, or a Hub id; the built-in model tiny has no form
        for judging steps
    task : str
        task whose solutions are judged: lab, a reasoning-gym task, or a .jsonl or .parquet file, whose answers can be graded
    advantage : str
        advantages of what is sampled: reinforce (the reward, as in SPC), or reinforce++-sequence (whitened over the turns of a role in the
        batch)
    play : str
        offline (what a round trains on is collected at its start, by the players as they then are), or online (each step collects, and
        trains on, its own)
    rounds : int
        number of offline rounds
    round_start : str
        what an offline round starts from: base (the base again, on the data of all rounds so far), or last (the last round, on the data of
        the new one)
    attempts : int
        number of wrong steps that the generator tries to write in an offline round; in an online step, as many as give --batch-size turns
        if all are valid
    batch_size : int
        number of turns, of both players together, that a step trains on; as many steps made by rule are imitated beside them
    right_steps : float
        share of right steps among those that the critic is shown; 0: none
    opponents : str
        who plays whom: different (one of the two is the base: half of the generator's wrong steps are shown to the base, and the critic is
        shown those of the base), or same (both players as they are)
    frozen : str
        player that is not trained: none, critic or generator
    sft_weight : float
        weight of the imitated steps in the loss, relative to sampled ones; 0: none
    role_weights : str
        factor of the advantages of a role: none (1), or balanced (number of turns / 2 / number of turns of the role)
    max_step_tokens : int
        maximum length of what the generator writes in tokens
    num_solutions : int
        number of solutions that the base writes before the first round, whose steps are altered if they are right; not for the laboratory,
        which has solutions
    completions : int
        number of completions, by the base, of a solution with the original step, and with the altered one, by which a wrong step is
        recognised; not for the laboratory, which evaluates steps
    right_at_least : float
        smallest share of right completions from the original step
    wrong_at_most : float
        largest share of right completions from the altered step
    on_collapse : str
        what to do when no wrong step of a round is valid, or of --collapse-steps online steps: stop the run, or continue
    collapse_steps : int
        online steps without a valid wrong step before --on-collapse applies
    critic_problems : int
        number of held-out steps on which the critics of all rounds are compared after training; 0: none
    """

    presets = presets(
        {"attempts": 64, "batch_size": 8, "max_step_tokens": 96, "critic_problems": 32, "max_new_tokens": 128, "num_solutions": 64},
        {"batch_size": 72, "attempts": 1000},
        paper=PAPER,
    )

    model: str = "lab"
    task: str = "lab"
    advantage: Literal["reinforce", "reinforce++-sequence"] = "reinforce"
    play: Literal["offline", "online"] = "offline"
    rounds: int = 2
    round_start: Literal["base", "last"] = "base"
    attempts: int = 1000
    batch_size: int = 72
    right_steps: float = 0.5
    opponents: Literal["different", "same"] = "different"
    frozen: Literal["none", "critic", "generator"] = "none"
    sft_weight: float = 0.15
    role_weights: Literal["none", "balanced"] = "none"
    max_step_tokens: int = 32
    num_solutions: int = 256
    completions: int = 8
    right_at_least: float = 0.5
    wrong_at_most: float = 0.25
    on_collapse: Literal["stop", "continue"] = "stop"
    collapse_steps: int = 10
    critic_problems: int = 360

    def check_settings(self) -> None:
        """Check what depends on several settings."""
        super().check_settings()
        for name in ("rounds", "attempts", "max_step_tokens", "num_solutions", "completions"):
            if getattr(self, name) < 1:
                raise InputError(f"{option_of(name)} {getattr(self, name)}: must be at least 1")
        self._check_shares()
        if self.play == "offline" and self.steps < self.rounds:
            raise InputError(f"--steps {self.steps}: fewer than --rounds {self.rounds}; every round needs a step")
        for name in ("clip_cov", "kl_cov", "clip_ratio_c"):
            if getattr(self, name):
                raise InputError(f"{option_of(name)}: is for the ratio of tokens; spc has that of whole completions: leave it out")
        if self.play == "online" and self.num_iterations > 1:
            raise InputError("--num-iterations: an online step is one update; use --play offline, or leave it out")

    def _check_shares(self) -> None:
        for name in ("right_at_least", "wrong_at_most"):
            if getattr(self, name) > 1:
                raise InputError(f"{option_of(name)} {getattr(self, name):g}: is a share, must be at most 1")
        if self.right_steps >= 1:
            raise InputError(f"--right-steps {self.right_steps:g}: is a share, must be below 1: without wrong steps there is no game")
        if self.wrong_at_most >= self.right_at_least:
            raise InputError(
                f"--wrong-at-most {self.wrong_at_most:g}: must be below --right-at-least {self.right_at_least:g}; "
                "an altered step must succeed less often than the original"
            )

    def ends(self) -> list[int]:
        """List the last step of each round: with ``round_start`` base they are as long as their data, else all of one length."""
        if self.play == "online":
            return [self.steps]
        weights = [number if self.round_start == "base" else 1 for number in range(1, self.rounds + 1)]
        least = [sum(weights[:number]) * self.steps // sum(weights) for number in range(1, self.rounds + 1)]
        return [max(end, number) for number, end in enumerate(least, start=1)]

    @property
    def judged_problems(self) -> int:
        """Those of which solutions are sampled."""
        return self.num_solutions

    def check_source(self, source: Source, speaks: LanguageName) -> None:
        """Refuse a model without a form for judging steps."""
        del source
        if speaks == "notation":
            raise InputError(NO_FORM.format(model=printable(self.model, 200)))

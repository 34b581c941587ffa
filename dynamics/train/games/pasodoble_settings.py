"""Settings of PasoDoble, and of games that differ from it in reward and grounding: R-Zero, SPICE. It imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dynamics.errors import InputError
from dynamics.train.config import PolicyGradientConfig, presets
from dynamics.train.tasks.problem import Source
from dynamics.train.tasks.prompt_formats import LanguageName


@dataclass(frozen=True)
class PasoDobleConfig(PolicyGradientConfig):
    """PasoDoble: a proposer writes problems with answers of its own about a passage, and a solver is paid for the same answers.

    Attributes
    ----------
    num_problems : int
        number of training problems of which passages are drawn; where passages are programs, all programs of the training split
    prompts_per_step : int
        number of passages per step
    proposals_per_passage : int
        number of problems proposed per passage, whose rewards are compared with each other
    group_size : int
        number of answers per problem, from which its solve rate is estimated
    max_proposal_tokens : int
        maximum length of a proposal in tokens
    passage : str
        what the proposer is shown: given (a training program or problem), or none (always the first task of the language, or nothing)
    truth : str
        right answer of a problem: claim (the proposer's), executor (what the program gives; needs a task of programs), or majority (the
        most frequent answer of the solver, if there is one)
    player_schedule : str
        online (both players are updated in each step), or offline (--proposer-updates steps update the proposer and fill a buffer of
        problems, then --solver-updates steps update the solver on them)
    proposer_updates : int
        steps of the proposer in a round of --player-schedule offline
    solver_updates : int
        steps of the solver in a round of --player-schedule offline
    players : str
        two (proposer and solver are two models, which begin as the same base), or shared (one model has both roles)
    proposer : str
        training of the proposer: trained, frozen (the base proposes all along), or snapshot (the solver's weights, taken anew every
        --snapshot-every steps, propose)
    snapshot_every : int
        steps after which --proposer snapshot takes the solver's weights
    proposer_reward : str
        proposer reward as a function of the solve rate: pasodoble, one_minus, azr_code, inverse, triangular, r_zero, variance, goldilocks,
        spice, lsp, swe_rl, or module:function of your own
    invalid_proposal_reward : float
        proposer reward of a proposal that cannot be put to the solver
    diversity : str
        what the proposer's reward is told of diversity: recent (share of the last 100 problems that differ), or off (1 for all)
    lowest_rate : float
        the solver is trained on problems with a higher solve rate only; below 0, on those that nobody solves too
    highest_rate : float
        the solver is trained on problems with a lower solve rate only
    solver_reward : str
        label (1 for the right answer, else 0), or random (a fair coin for each answer, for comparison)
    on_collapse : str
        what to do when no problem could be put to the solver for --collapse-steps steps: stop the run, or continue
    collapse_steps : int
        steps of the proposer without a problem for the solver before --on-collapse applies
    """

    presets = presets(
        {"prompts_per_step": 1, "proposals_per_passage": 4, "group_size": 4, "max_proposal_tokens": 128, "num_problems": 256},
        {"prompts_per_step": 3, "max_proposal_tokens": 64},
        paper={
            "prompts_per_step": 1,
            "proposals_per_passage": 6,
            "group_size": 6,
            "steps": 2000,
            "learning_rate": 1e-6,
            "temperature": 0.6,
            "max_new_tokens": 6144,
            "max_proposal_tokens": 6144,
            "loss_aggregation": "constant",
            "adam_beta2": 0.999,
            "warmup_steps": 0,
        },
        r_zero={
            "passage": "none",
            "truth": "majority",
            "player_schedule": "offline",
            "proposer_updates": 5,
            "solver_updates": 15,
            "proposer_reward": "r_zero",
            "lowest_rate": 0.25,
            "highest_rate": 0.75,
        },
        spice={
            "players": "shared",
            "proposer_reward": "spice",
            "invalid_proposal_reward": -0.1,
            "advantage": "dr_grpo",
            "lowest_rate": -1.0,
            "highest_rate": 2.0,
        },
    )

    steps: int = 250
    num_problems: int = 2048
    prompts_per_step: int = 12
    proposals_per_passage: int = 6
    group_size: int = 6
    max_proposal_tokens: int = 64
    passage: Literal["given", "none"] = "given"
    truth: Literal["claim", "executor", "majority"] = "claim"
    player_schedule: Literal["online", "offline"] = "online"
    proposer_updates: int = 10
    solver_updates: int = 5
    players: Literal["two", "shared"] = "two"
    proposer: Literal["trained", "frozen", "snapshot"] = "trained"
    snapshot_every: int = 10
    proposer_reward: str = "pasodoble"
    invalid_proposal_reward: float = 0.0
    diversity: Literal["recent", "off"] = "recent"
    lowest_rate: float = 0.2
    highest_rate: float = 1.0
    solver_reward: Literal["label", "random"] = "label"
    on_collapse: Literal["stop", "continue"] = "stop"
    collapse_steps: int = 20

    def check_settings(self) -> None:
        """Check what depends on several settings."""
        from dynamics.train import proposer_rewards as rewards

        super().check_settings()
        rewards.find(self.proposer_reward)
        if self.players == "shared" and self.proposer != "trained":
            raise InputError(
                f"--players shared --proposer {self.proposer}: only the solver would learn, as with two players; leave out --players shared"
            )
        if self.player_schedule == "offline" and self.proposer != "trained":
            raise InputError(
                f"--player-schedule offline --proposer {self.proposer}: the steps of the proposer would update nothing; use "
                "--player-schedule online"
            )
        for name in ("proposals_per_passage", "proposer_updates", "solver_updates", "snapshot_every"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 1")
        if self.lowest_rate >= self.highest_rate:
            raise InputError(
                f"--lowest-rate {self.lowest_rate:g}: no problem has a solve rate above it and below --highest-rate {self.highest_rate:g}"
            )
        if self.group_size == 1 and self.truth == "majority":
            raise InputError("--truth majority --group-size 1: a single answer is always the majority; sample more")

    def check_source(self, source: Source, speaks: LanguageName) -> None:
        """Check that problems can be posed on a task."""
        from dynamics.train.games.passages import find

        find(self, source, speaks).close()

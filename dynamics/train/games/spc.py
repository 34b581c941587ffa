"""Self-play critic, as in SPC (arXiv 2504.19162): a generator writes wrong steps of solutions, a critic tells them from right ones.

The generator sees a problem, a partial solution and its right next step, and writes a wrong one in its place. Whether it is wrong is
decided outside the game (``steps``). The critic is shown wrong and right steps. A wrong step that is caught gives the critic 1 and the
generator -1, one that is not gives both the opposite; a generator that writes no valid wrong step gets -1, and the critic is not asked.

In offline rounds the turns of a round are collected by the players as they are at its start. Each step trains on some of them, with the
probability ratio of whole completions to the base, which stays fixed, and imitates as many steps that are made by rule. Departures from the
paper are listed in docs/methods/spc.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dynamics.errors import InputError
from dynamics.runs.directory import RunDirectory
from dynamics.train import data_order, opponent_rewards, update
from dynamics.train.completions import SampledCompletion
from dynamics.train.games import critic_table
from dynamics.train.games import steps as steps_
from dynamics.train.games.game import Game, Play, Role, Turn, pack
from dynamics.train.games.spc_settings import NO_FORM, SPCConfig
from dynamics.train.games.steps import LaboratorySteps, Place
from dynamics.train.games.written_steps import WrittenSteps
from dynamics.train.method import Part, StepData
from dynamics.train.policy import Policy
from dynamics.train.policy import load as load_policy
from dynamics.train.probe_prompts import COUNT, ProbePrompts
from dynamics.train.rng import stream
from dynamics.train.tasks.problem import Source
from dynamics.train.tasks.prompt_formats import encode_completion, encode_prompts, language_of

#: the players, which are the roles
CRITIC, GENERATOR = "critic", "generator"
PLAYERS = (CRITIC, GENERATOR)
#: end of the role of steps that are imitated
IMITATED = "_sft"


class SPC(Game):
    """The game. Its state holds the turns of all rounds so far, on which later steps train.

    Attributes
    ----------
    base : the untrained model: the reference of the ratio, from which rounds start, and the judge of altered steps in plain text.
    steps : what is played on.
    data : the turns of each round so far.
    without_valid : rounds, or online steps, in a row without a valid wrong step.
    set_back : how often the players were set back to the base.
    """

    graded = CRITIC

    def __init__(self, config: SPCConfig, policy: Policy, source: Source):
        super().__init__(config, policy)
        self.config, self.source = config, source
        self.base: Policy = policy.copy()
        self.players = {CRITIC: update.make_player(CRITIC, policy, config)}
        self.players |= {GENERATOR: update.make_player(GENERATOR, policy.copy(), config)}
        self.steps: steps_.Steps = _steps_of(self, language_of(policy.tokenizer), source)
        self.ends = config.ends()
        self.milestones = frozenset(self.ends)
        self.data: list[list[Turn]] = []
        self.without_valid = self.set_back = 0

    # what is kept between steps

    def state(self) -> dict[str, Any]:
        """Return the turns of all rounds, and what the steps need."""
        return self.snapshot()()

    def snapshot(self) -> Callable[[], dict[str, Any]]:
        """Return a function that gives the state as it is now; it refuses once the players were set back: their weights are gone."""
        data, without_valid, steps, set_back = list(self.data), self.without_valid, self.steps.state(), self.set_back

        def kept() -> dict[str, Any]:
            if self.set_back != set_back:
                raise InputError("the players were set back to the base: the state before this step cannot be saved any more")
            return {"data": [[turn.to_json() for turn in turns] for turns in data], "without_valid": without_valid, "steps": steps}

        return kept

    def load(self, kept: dict[str, Any]) -> None:
        """Restore a state."""
        self.data = [[Turn.from_json(turn) for turn in turns] for turns in kept["data"]]
        self.without_valid = kept["without_valid"]
        self.steps.load(kept["steps"])

    def metadata(self) -> dict[str, Any]:
        """Say what decides whether an altered step is wrong, and after which steps rounds end."""
        return {"executor": self.steps.executor, "rounds": self.ends if self.config.play == "offline" else []}

    def player_of(self, role: str) -> str:
        """Return the player that has the name of the role."""
        return role

    # a step

    def next_batch(self, step: int) -> StepData:
        """Play a step. Offline, the ratio is that of whole completions; rollouts are what was sampled in this step."""
        data = super().next_batch(step)
        rollouts = [row for row in data.rollouts if row["role"] in PLAYERS]
        if self.config.play == "online":
            return replace(data, rollouts=rollouts)
        parts = [Part(player, replace(batch, sequence_ratio=True)) for player, batch in data.parts]
        return replace(data, parts=parts, rollouts=[row for row in rollouts if "advantage" not in row])

    def play(self, step: int) -> Play:
        """Train on turns of this step, or of the rounds so far; a round begins by collecting its own."""
        if step == 1:
            self.steps.collect()
        return self._online(step) if self.config.play == "online" else self._offline(step)

    def _online(self, step: int) -> Play:
        """Train on what is collected in this step."""
        share = self.config.right_steps
        attempts = max(1, int(self.config.batch_size / (2 + share / (1 - share))))
        turns, metrics = self._collect(step, step, attempts)
        for turn in turns:
            turn.packed = turn.player != self.config.frozen
        self._weigh(turns)
        return Play(self._batched(turns, step), metrics)

    def _offline(self, step: int) -> Play:
        """Train on some turns of the rounds so far; none of them is packed in the step in which it is sampled."""
        config = self.config
        round_ = next(number for number, end in enumerate(self.ends, start=1) if step <= end)
        first = [0, *self.ends][round_ - 1] + 1
        collected: list[Turn] = []
        metrics: dict[str, Any] = {"round": round_}
        if step == first:
            collected, found = self._collect(round_, step, config.attempts)
            metrics |= found
            turns = self._with_reference(collected)
            self.data = [*self.data, turns] if config.round_start == "base" else [turns]
            collected = [replace(turn, packed=False) for turn in collected]
        pool = [turn for turns in self.data for turn in turns]
        metrics["round/passes"] = (step - first + 1) * config.batch_size / len(pool)
        self._weigh(pool)
        chosen = data_order.chosen(config.seed, step - first + 1, config.batch_size, len(pool))
        batched = self._batched([pool[index] for index in chosen if pool[index].player != config.frozen], step)
        if step == first and round_ > 1 and config.round_start == "base":
            self._set_back()  # last, so that a step that fails before it can be saved
        return Play([*collected, *batched], metrics)

    def _batched(self, turns: list[Turn], step: int) -> list[Turn]:
        """Add to the turns of each player as many that are imitated."""
        made = self._imitated(turns, step)
        batched = [turn for player in PLAYERS for turn in [*turns, *made] if turn.player == player]
        if not any(turn.packed for turn in batched):
            raise InputError(
                f"step {step}: nothing to train on: no turn that was drawn is one of a player that is trained; give a larger --batch-size"
            )
        return batched

    def _weigh(self, turns: Sequence[Turn]) -> None:
        """Set the weights of the roles, from the numbers of their turns."""
        counts = Counter(turn.role for turn in turns)
        balanced = self.config.role_weights == "balanced"
        weights = {role: len(turns) / (2 * counts[role]) if balanced and counts[role] else 1.0 for role in PLAYERS}
        self.roles = {role: Role(self.config.advantage, "role", weights[role]) for role in PLAYERS}

    def _set_back(self) -> None:
        """Give the players the weights of the base, and new optimizers."""
        self.set_back += 1
        for player in self.players.values():
            player.optimizer.state.clear()
            for name, value in player.policy.masters.items():
                value.data.copy_(self.base.masters[name].data)
            player.policy.update_model()

    # collecting

    def _collect(self, round_: int, step: int, attempts: int) -> tuple[list[Turn], dict[str, Any]]:
        """Let the players as they are write and judge steps; each half of the attempts has one of them against the base, if so set."""
        generator, critic = (self.players[name].policy for name in (GENERATOR, CRITIC))
        pairs = [(generator, critic)] if self.config.opponents == "same" else [(generator, self.base), (self.base, critic)]
        places = self.steps.draw(round_, attempts)
        turns: list[Turn] = []
        for number, pair in enumerate(pairs):
            turns += self._games(places[number :: len(pairs)], *pair, f"{round_} {number}", step)
        self._check_valid(turns, step)
        return turns, collection_metrics(turns)

    def _games(self, places: list[Place], generator: Policy, critic: Policy, name: str, step: int) -> list[Turn]:
        """Play a game at each place, and show the critic right steps of these places too."""
        sneaky, altered = self._write(places, generator, name, step)
        wrong = [(place, text, False) for place, text in zip(places, altered, strict=True) if text is not None]
        share, config = self.config.right_steps, self.config
        order = stream(config.seed, f"spc right {name}", step).permutation(len(places))
        count = round(len(wrong) * share / (1 - share))
        right = [(places[order[index % len(places)]], True) for index in range(count)]
        judged = self._judge([*wrong, *((place, place.step, truth) for place, truth in right)], critic, name, step)
        written = [turn for turn, text in zip(sneaky, altered, strict=True) if text is not None]
        for turn, verdict in zip(written, judged[: len(wrong)], strict=True):
            caught = np.float64(verdict.row["correct"])
            turn.reward = float(opponent_rewards.deceives(caught, caught))
        return [*sneaky, *judged]

    def _write(self, places: list[Place], generator: Policy, name: str, step: int) -> tuple[list[Turn], list[str | None]]:
        """Let a generator write wrong steps; return its turns, which earn -1 so far, and the valid steps."""
        prompts = [self.steps.generator_prompt(place) for place in places]
        ids = encode_prompts(self.tokenizer, prompts)
        sampled = [group[0] for group in self.ask(generator, ids, 1, f"spc generator {name}", step, self.config.max_step_tokens)]
        texts = [self.text(one) for one in sampled]
        read = [self.steps.read_step(place, text) for place, text in zip(places, texts, strict=True)]
        reasons = [steps_.NOT_ENDED if one.ended == "length" else reason for one, (_, reason) in zip(sampled, read, strict=True)]
        formed = [index for index, reason in enumerate(reasons) if not reason]
        refuted = self.steps.refute([(places[index], read[index][0]) for index in formed], f"spc {name}", step)
        for index, reason in zip(formed, refuted, strict=True):
            reasons[index] = reason
        turns = []
        for number, (place, reason, (altered, _)) in enumerate(zip(places, reasons, read, strict=True)):
            row = {"problem": place.name, "step": altered, "valid": not reason, "reason": reason} | self.steps.about(place)
            asked = (prompts[number], ids[number], sampled[number], texts[number], f"{name} generator {number}")
            turns.append(Turn(GENERATOR, "sneaky", *asked, reward=-1.0, player=GENERATOR, name=place.name, row=row))
        return turns, [None if reason else altered for reason, (altered, _) in zip(reasons, read, strict=True)]

    def _judge(self, shown: Sequence[tuple[Place, str, bool]], critic: Policy, name: str, step: int) -> list[Turn]:
        """Let a critic judge steps, each with whether it is right."""
        prompts = [self.steps.critic_prompt(place, text) for place, text, _ in shown]
        ids = encode_prompts(self.tokenizer, prompts)
        turns = []
        for number, group in enumerate(self.ask(critic, ids, 1, f"spc critic {name}", step) if shown else []):
            (place, text, truth), written = shown[number], self.text(group[0])
            said = self.steps.read_verdict(text, written)
            row = {"problem": place.name, "step": text, "right": truth, "said": said, "correct": said is truth} | self.steps.about(place)
            asked = (prompts[number], ids[number], group[0], written, f"{name} critic {number}")
            correct = np.float64(said is truth)
            reward = -float(opponent_rewards.deceives(correct, correct))
            turns.append(Turn(CRITIC, "right" if truth else "wrong", *asked, reward=reward, player=CRITIC, name=place.name, row=row))
        return turns

    def _check_valid(self, turns: Sequence[Turn], step: int) -> None:
        """Stop the run if no wrong step was valid, for a round or for too many online steps."""
        written = [turn for turn in turns if turn.role == GENERATOR]
        self.without_valid = 0 if any(turn.row["valid"] for turn in written) else self.without_valid + 1
        most = self.config.collapse_steps if self.config.play == "online" else 1
        if self.without_valid >= most and self.config.on_collapse == "stop":
            reason = Counter(turn.row["reason"] for turn in written).most_common(1)[0][0]
            raise InputError(
                f"step {step}: none of {len(written)} wrong steps is valid (most common reason: {reason}); the generator has collapsed, or "
                "never knew the form; use a smaller --learning-rate, or --on-collapse continue to train on what there is"
            )

    def _with_reference(self, turns: list[Turn]) -> list[Turn]:
        """Return the turns with the log-probabilities of the base, to which the ratio is; each is stored with the data."""
        self._weigh(turns)
        found: dict[str, list[np.ndarray[Any, Any]]] = {}
        for player, batch in pack(turns, self.roles, self.config.temperature)[0]:
            values = self.base.logprobs_of(batch, self.config.max_tokens_per_microbatch).cpu().numpy()
            found[player] = np.split(values, np.cumsum(batch.lengths)[:-1])
        of_player = {player: iter(values) for player, values in found.items()}
        return [replace(turn, sampled=replace(turn.sampled, logprobs=next(of_player[turn.player]))) for turn in turns]

    # imitation

    def _imitated(self, turns: Sequence[Turn], step: int) -> list[Turn]:
        """Make right judgements, and wrong steps by rule, as many as there are turns of each player, at the places of the rounds so far."""
        config, made = self.config, list[Turn]()
        if not config.sft_weight:
            return made
        online = config.play == "online"
        round_ = step if online else sum(step > end for end in self.ends) + 1
        drawn = range(round_, round_ + 1) if online or config.round_start == "last" else range(1, round_ + 1)
        places = [place for number in drawn for place in self.steps.draw(number, config.attempts)]
        rng = stream(config.seed, "spc imitated", step)
        for player in PLAYERS:
            for number in range(sum(turn.player == player and turn.packed for turn in turns)):
                place = places[int(rng.integers(len(places)))]
                altered = self.steps.by_rule(place, rng)
                right = altered is None or rng.random() < config.right_steps
                if player == GENERATOR and altered is None:
                    continue
                shown = place.step if right or altered is None else altered
                if player == CRITIC:
                    task, prompt = "right" if right else "wrong", self.steps.critic_prompt(place, shown)
                    text = self.steps.judgement(place, shown, right)
                else:
                    task, prompt = "sneaky", self.steps.generator_prompt(place)
                    text = self.steps.generation(place, str(altered))
                made.append(self._as_turn(player, task, prompt, text, f"imitated {player} {number}", place.name))
        return made

    def _as_turn(self, player: str, task: str, prompt: str, text: str, group: str, name: str) -> Turn:
        ids = np.array(encode_completion(self.tokenizer, text), np.int64)
        sampled = SampledCompletion(ids, np.zeros(len(ids), np.float32), "eos")
        asked = (prompt, encode_prompts(self.tokenizer, [prompt])[0], sampled, text, group)
        return Turn(player + IMITATED, task, *asked, reward=self.config.sft_weight, player=player, name=name, supervised=True)

    # measurements

    def probe_prompts(self) -> ProbePrompts:
        """Return held-out places for both players."""
        places = self.steps.held_out(COUNT)
        asked = {CRITIC: [self.steps.critic_prompt(place, place.step) for place in places]}
        asked[GENERATOR] = [self.steps.generator_prompt(place) for place in places]
        limits = {CRITIC: self.config.max_new_tokens, GENERATOR: self.config.max_step_tokens}
        return {role: (encode_prompts(self.tokenizer, prompts), limits[role]) for role, prompts in asked.items() if prompts}

    def on_train_end(self, directory: RunDirectory, load_base: Callable[[], Policy]) -> None:
        """Write ``critic.jsonl``: the critics of all rounds on the wrong steps of all rounds; a frozen player is that of round 0."""
        del load_base  # it is kept
        config = self.config
        if not config.critic_problems:
            return
        saved: list[tuple[int, Callable[[], Policy] | None, Callable[[], Policy] | None]] = [(0, lambda: self.base, lambda: self.base)]
        for number, end in enumerate(self.ends, start=1):
            name = f"step_{end:06d}"
            folders = {CRITIC: directory.path / "checkpoints" / name, GENERATOR: directory.path / "players" / GENERATOR / name}
            load = {player: partial(self._load, folder) if player != config.frozen else None for player, folder in folders.items()}
            saved.append((number, load[CRITIC], load[GENERATOR]))
        limits = (config.max_new_tokens, config.max_step_tokens)
        shown, verdicts = critic_table.ask(self.steps, config.critic_problems, config.seed, limits, saved)
        directory.write_rows(critic_table.FILE, critic_table.table(shown, verdicts))
        directory.write_rows(critic_table.VERDICTS, critic_table.rows_of(self.steps, shown, verdicts))

    def _load(self, folder: Path) -> Policy:
        return load_policy(str(folder), str(self.base.device), self.base.master, self.base.compute)


def _steps_of(game: SPC, language: str, source: Source) -> steps_.Steps:
    """Return what is played on, by what the model reads."""
    if language == "lab":
        return LaboratorySteps(game.config.seed)
    if language == "notation":
        raise InputError(NO_FORM.format(model=game.config.model))
    return WrittenSteps(game, game.base, game.config, source)


def collection_metrics(turns: Sequence[Turn]) -> dict[str, float]:
    """Measure what was collected: recalls of the critic, validity and success of the generator."""
    written = [turn for turn in turns if turn.role == GENERATOR]
    valid = [turn for turn in written if turn.row["valid"]]
    metrics = {
        "generator/reward": float(np.mean([turn.reward for turn in written])),
        "generator/valid": len(valid) / len(written),
        "generator/distinct": len({turn.row["step"] for turn in valid}) / max(1, len(valid)),
        "generator/length": float(np.mean([len(turn.sampled.ids) for turn in written])),
    }
    if valid:
        metrics["generator/deceives"] = float(np.mean([turn.reward > 0 for turn in valid]))
    for reason, count in Counter(turn.row["reason"] for turn in written if not turn.row["valid"]).items():
        metrics[f"generator/failed/{reason[:40]}"] = count / len(written)
    judged = [turn for turn in turns if turn.role == CRITIC]
    if judged:
        metrics["reward"] = metrics["critic/reward"] = float(np.mean([turn.reward for turn in judged]))
        metrics["critic/no_verdict"] = float(np.mean([turn.row["said"] is None for turn in judged]))
        metrics["critic/length"] = float(np.mean([len(turn.sampled.ids) for turn in judged]))
        for task in ("right", "wrong"):
            if own := [turn.row["correct"] for turn in judged if turn.task == task]:
                metrics[f"critic/recall/{task}"] = float(np.mean(own))
    return metrics

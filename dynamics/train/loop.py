"""The training loop shared by all methods.

    next batch -> prepare -> gradient -> optimizer step -> record -> save

A step is a pure function of the weights, the optimizer state, the state of the method, and the step number. A run that is killed at any
time resumes from its last saved state, after everything later has been removed from the run directory, and ends with bit-identical
results on the same machine with the same compute dtype and number of threads, which ``run.json`` records. On other machines the order of
sums differs: the run differs by rounding, and diverges once a sampled token differs.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dynamics.cli.command import TERMINATING, handle_signals, interruption, tell
from dynamics.errors import InputError
from dynamics.io.folders import exclusive
from dynamics.recorder.recorder import Recorder
from dynamics.runs.directory import RunDirectory
from dynamics.runs.matching import matching, totals
from dynamics.runs.schema import SCHEMA
from dynamics.train import (
    built_in,
    checks,
    contamination,
    evaluate,
    kept_samples,
    loading,
    policy,
    probe_prompts,
    registry,
    sources,
    state,
    tasks,
    token_metrics,
    update,
    validation,
)
from dynamics.train.config import EARLIER, PolicyGradientConfig, TrainConfig, as_recorded, option_of
from dynamics.train.engines.local import Local
from dynamics.train.engines.protocol import Engine, Start
from dynamics.train.loading import memory, set_up_torch
from dynamics.train.method import Part
from dynamics.train.policy import Policy, Sampler
from dynamics.train.samplers import choice
from dynamics.train.samplers.transformers import decoder_of
from dynamics.train.tasks.prompt_formats import encode_questions

#: what to do if memory runs out in a step
OUT_OF_MEMORY = (
    "continue with --resume after ending other programs, with --gradient-checkpointing, or with a smaller --max-tokens-per-microbatch: "
    "a resumed run may change both"
)
#: called after every step with its number and its line of ``metrics.jsonl``
OnStep = Callable[[int, dict[str, Any]], None]


class Run:
    """A training run.

    Parameters
    ----------
    method
        ``sft``, ``rlvr`` or ``selfplay``.
    config
        Settings, of the method's config class.
    out
        Run directory; must exist and be empty, or contain this run if ``resume``.
    resume
        Continue the run in ``out``.
    tensorboard, wandb
        See ``Recorder``.
    preset
        Preset that supplied the defaults of the settings, recorded in ``run.json``; None if unknown.
    fresh_evaluation
        Sample the base anew, even if samples of an earlier run of this base are kept.
    engine
        Computes the updates; this process alone if None.
    sampler
        Draws completions; the model itself if None.

    Attributes
    ----------
    document : dict
        Contents of ``run.json``.
    step : int
        Number of the last completed step; 0 before the first.
    saved : int
        Number of the last step whose state is saved; 0 if there is none.
    stopping : int or None
        Signal that stops the run after the current step, once the state is saved.
    stops_at_once : bool
        Whether a signal stops the run at once, because its state is saved: during an evaluation, not during a step.
    """

    def __init__(
        self,
        method: str,
        config: TrainConfig,
        out: Path,
        resume: bool,
        tensorboard: bool = False,
        wandb: str | None = None,
        preset: str | None = None,
        fresh_evaluation: bool = False,
        engine: Engine | None = None,
        sampler: Sampler | None = None,
    ):
        self.name, self.config, self.out = method, config, out
        self.engine, self.sampler = engine or Local(), sampler
        self.fresh_evaluation = fresh_evaluation
        self.directory = RunDirectory(out)
        resumed = checks.check_folder(method, config, out, resume)
        self.document = resumed or self._begun(preset)
        self._record_sampler(resumed is not None)
        set_up_torch(self.document["threads"])
        loaded, self.source, self.language = loading.load(
            config, self.document.get("compute_dtype", config.compute_dtype)
        )  # as a resumed run began
        loaded.sampler = sampler  # and so its copies
        self.base_checksum = state.weights_checksum(loaded)
        self.method = registry.make(method, config, loaded, self.source)
        try:
            self._prepare(loaded, resume, tensorboard, wandb)
        except BaseException:
            self._close()
            raise

    def _prepare(self, loaded: Policy, resume: bool, tensorboard: bool, wandb: str | None) -> None:
        """Do what remains once the model is loaded, up to the last saved state of a resumed run."""
        config = self.config
        self._compare_inputs()
        self.probe_prompts = self.method.probe_prompts() if config.probe_every else {}
        self.validation = validation.prepare(self.source, loaded.tokenizer, config)
        self.base = loading.keep_base(self.method, loaded, config)
        self.reference = self.base if isinstance(config, PolicyGradientConfig) and config.kl_coef else None
        self.players = self.method.make_players(loaded, config)
        every = config.record_every or self.method.record_every
        kept = self.base is not None  # by which the recorder needs no copy of its own
        start = {name: (self.base or player.policy).effective() for name, player in self.players.items()}
        before = None if self.method.graded_by_validation else start[self.method.graded]
        self.recorder = Recorder(self.out, every=every, base=before, tensorboard=tensorboard, wandb=wandb, keeps_base=kept)
        self.recorders = {name: self._recorder_of(name, every, start[name], kept) for name in self._beside()}
        self.step = self.saved = 0
        self._chosen_after: int | None = None  # step after which the graded player was chosen
        self.stopping: int | None = None
        self.stops_at_once = False
        self._resume_from_state(resume)
        self._describe()
        start_of_all = Start(self.name, config, self.document["threads"], self.policy.compute, self.base_checksum)
        self.engine.begin(start_of_all, self.players, self.base)

    @property
    def policy(self) -> Policy:
        """The policy of the graded player."""
        return self.players[self.method.graded].policy

    def _beside(self) -> list[str]:
        """List the players whose weights are measured and kept in ``players/``: all but one that is graded throughout."""
        return [name for name in self.players if self.method.graded_by_validation or name != self.method.graded]

    def _recorder_of(self, name: str, every: int, start: Mapping[str, Any], kept: bool) -> Recorder:
        """Make the recorder of a player that is measured beside the graded one."""
        folder = self.out / "players" / name
        folder.mkdir(parents=True, exist_ok=True)
        return Recorder(folder, every=every, base=start, keeps_base=kept)

    def _begun(self, preset: str | None) -> dict[str, Any]:
        """Build the part of ``run.json`` that is known before the model is loaded."""
        from dynamics.io.threads import cores

        return {
            "schema": SCHEMA,
            "method": self.name,
            "preset": preset,
            "config": as_recorded(self.config),
            "seed": self.config.seed,
            "model": self.config.model,
            "master_dtype": self.config.master_dtype,
            "storage_dtype": self.config.master_dtype,
            "threads": self.config.threads or cores(),
            "packages": {name: _version(name) for name in ("torch", "transformers", "numpy", "training-dynamics", "reasoning-gym")},
            "python": platform.python_version(),
            "engine": self.engine.describe(),
            "status": "running",
        }

    def _record_sampler(self, resumed: bool) -> None:
        """Record the sampler, once it is compared with the one that a resumed run began with."""
        now = choice.TRANSFORMERS if self.sampler is None else self.sampler.describe()
        if resumed:
            choice.refuse_other(self.document, now["name"], self.out)
        if self.sampler is not None:
            before = self.document.get("sampler", now)
            if before != now:
                self._note(f"sampling by {_words(now)} from here on, before by {_words(before)}: the samples may be others")
            self.document["sampler"] = now

    def _describe(self) -> None:
        """Add to ``run.json`` what is known after loading."""
        machines, machine = self.document.get("machines", []), _machine(self.policy.device)
        self.document |= {
            "parameters": sum(value.numel() for value in self.policy.masters.values()),
            "compute_dtype": self.policy.compute,
            "shares_prompts": self.policy.shares,
            "sampled_by": decoder_of(self.policy) if self.sampler is None else self.sampler.describe()["name"],
            "engine": self.engine.describe(),
            "machines": machines if machine in machines else [*machines, machine],
            "record_every": self.recorder.every,
            "probe_prompts": {role: len(prompts) for role, (prompts, _) in self.probe_prompts.items()},
        } | self.method.metadata()
        if self._beside():
            self.document |= {"players": list(self.players), "graded": self.method.graded}
        if self.validation is not None:
            self.document["validation"] = self.validation.describe(self.config)
        if scorers := [part.executor() for part in checks.scored_parts(self.config, self.source)]:
            programs = [name for name in (self.method.metadata().get("executor"),) if name]
            self.document["executor"] = "; ".join(dict.fromkeys(programs + scorers))
        self._write_matching()

    def _write_matching(self) -> None:
        """Write ``run.json``, with the table of what is planned, and of what happened in the steps so far."""
        self.document["matching"] = matching(self.document, totals(self.directory.metrics())).to_json()
        self.directory.write_run(self.document)

    def _compare_inputs(self) -> None:
        """Compare the base model and the problems with those that the run began with; runs of earlier versions have no checksums."""
        problems = hashlib.sha256()
        for part in self.method.inputs():
            problems.update(part)
        checksums = {"base": self.base_checksum, "problems": problems.hexdigest()}
        begun = self.document.setdefault("checksums", checksums)
        for name, what in (("base", f"--model {self.config.model}: its weights"), ("problems", f"--task {self.config.task}: its problems")):
            if begun.get(name, checksums[name]) != checksums[name]:
                raise InputError(f"{what} are not those that {self.out} began with; restore them, or train again into another folder")

    def _resume_from_state(self, resume: bool) -> None:
        """Load the last sound state of a resumed run, and remove later records from the run directory."""
        resumed = state.resume(self.out / "state", self.players, self.method.load) if resume else None
        if resumed is not None:
            self.step = self.saved = resumed.step
            self._note(*resumed.notes)
            if self.step == self.config.steps:  # the run may have been killed before it removed them
                state.remove_others(self.out / "state", self.step, last=True)
        self._note_changes()
        if self.step < self.config.steps:  # after a state that was damaged; as the weights, the samples will be the same
            for file in (self.out / "evals").glob(f"{evaluate.file_name(self._final_name, 0).rpartition('_')[0]}_*.jsonl"):
                file.unlink()
        kept = self.directory.truncate(self.step)
        expected = list(range(0 if self.validation is not None else 1, self.step + 1)) if self.step else []
        if kept != expected:
            missing = next((step for step in expected if step not in kept), self.step)
            raise InputError(
                f"{self.out / 'metrics.jsonl'}: does not have the metrics of step {missing} once; restore the file, or train again into "
                "another folder"
            )
        for name, recorder in self.recorders.items():
            recorder.directory.truncate(self.step)
            recorder.follow(self.step, self.players[name].policy.effective())
        if not self.method.graded_by_validation:
            self.recorder.follow(self.step, self.policy.effective())

    def _note_changes(self) -> None:
        """Note settings that a resumed run changes, and record those that earlier versions did not have."""
        begun, now = EARLIER | self.document["config"], as_recorded(self.config)
        for name, effect in checks.MAY_CHANGE.items():
            if begun.get(name) != now[name]:
                self._note(f"{option_of(name)} is {now[name]} after step {self.step}, before {begun.get(name)}: {effect}")
        self.document["config"] |= now  # all others are equal, see ``checks.check_folder``
        engines = [{"name": "local", "processes": 1} | self.document.get("engine", {}), self.engine.describe()]
        before, after = (f"--engine {engine['name']} --processes {engine['processes']}" for engine in engines)
        if before != after:
            self._note(f"{after} after step {self.step}, before {before}: the order of sums changes")

    def _note(self, *notes: str) -> None:
        """Tell something about the run, and record it in ``run.json``."""
        for note in notes:
            tell(f"dynamics.train: {note}")
            self.document.setdefault("notes", []).append(note)

    def _note_remarks(self) -> None:
        """Note what was remarked while the policy was used, once a run."""
        self._note(*(line for line in self.policy.remarks if line not in self.document.get("notes", [])))

    @property
    def _final_name(self) -> str:
        """Name of the trained model in ``evals/``."""
        return f"{self.name}, {self.config.steps} steps"

    def load_base(self) -> Policy:
        """Return the base model of the run, with the same dtypes and device; load it again unless a copy is kept."""
        if self.base is not None:
            return self.base
        loaded = policy.load(built_in.find(self.config.model), str(self.policy.device), self.policy.master, self.policy.compute)
        loaded.sampler = self.sampler
        return loaded

    def questions(self) -> list[tasks.Question]:
        """List the held-out problems of the evaluation."""
        return self.source.questions("test", self.config.eval_problems, self.config.seed)

    def evaluate_at_temperatures(self, name: str, temperatures: Sequence[float]) -> None:
        """Write graded samples of the held-out problems at each temperature, unless the files exist.

        Samples of the untrained model are taken from an earlier run of the same base, see ``kept_samples``, unless ``fresh_evaluation``.

        Parameters
        ----------
        name
            Name of the current policy in ``evals/``.
        temperatures
            Sampling temperatures; 0 is greedy.
        """
        config, model = self.config, self.policy
        temperatures = list(dict.fromkeys(temperatures))
        files = {temperature: f"evals/{evaluate.file_name(name, temperature)}.jsonl" for temperature in temperatures}
        if not config.eval_problems or all((self.out / path).exists() for path in files.values()):
            return
        questions = self.questions()
        prompts = encode_questions(model.tokenizer, questions)
        asked = (prompts, temperatures, config.eval_samples, config.seed, config.max_new_tokens)
        groups = self._samples_of_base(*asked) if self.step == 0 else evaluate.sample(model, *asked)
        for temperature, chosen in evaluate.by_temperature(groups, temperatures, config.eval_samples):
            graded = evaluate.graded(model.tokenizer, model.eos, questions, prompts, chosen, name, temperature)
            self.directory.write_rows(files[temperature], graded)

    def _samples_of_base(self, *asked: Any) -> kept_samples.Samples:
        """Return the samples of an earlier run, or sample and keep them; ``run.json`` says which. See ``evaluate.sample``.

        Only what the model itself samples is kept.
        """
        if self.sampler is not None:
            self.document["base_samples"] = "sampled by this run"
            return evaluate.sample(self.policy, *asked)
        entry = kept_samples.entry(self.policy, self.document["checksums"]["base"], _machine(self.policy.device), *asked)
        groups, self.document["base_samples"] = None, "sampled by this run"
        if not self.fresh_evaluation:
            try:
                groups = entry.read()
            except kept_samples.Damaged as error:
                self._note(f"{entry.path}: is damaged ({error}); sampling anew")
        if groups is not None:
            self.document["base_samples"] = f"those of an earlier run, kept as {entry.path.name}"
            tell(f"dynamics.train: the base's samples are those of an earlier run ({entry.path}); --fresh-evaluation samples anew")
        self.directory.write_run(self.document)
        if groups is None:
            groups = evaluate.sample(self.policy, *asked)
            try:
                entry.write(groups)
            except InputError as error:
                tell(f"dynamics.train: the base's samples are not kept for other runs: {error}")
        return groups

    def one_step(self) -> dict[str, Any]:
        """Run and record the next step.

        Returns
        -------
        dict
            Metrics of the step, as in ``metrics.jsonl``.
        """
        begin, number = time.perf_counter(), self.step + 1
        if self.sampler is not None:
            self.sampler.measured()  # what was sampled since the step before is not of this one
        data = self.method.next_batch(number)
        if data.rollouts:
            self.directory.write_rows(f"rollouts/step_{number}.jsonl", data.rollouts)
        probed = self._probe(number)
        metrics = self._update(number, data.parts)
        self.engine.changed = True
        self.method.after_update(number)
        metrics |= data.metrics | probed | {"learning_rate": self.config.learning_rate * update.rate(self.config, number)}
        self.step = number
        seconds = time.perf_counter() - begin - probed.get("time/probe_seconds", 0.0)
        metrics |= {"seconds": seconds, "time/tokens_per_second": metrics["tokens"] / seconds}
        metrics |= self._validate()
        metrics |= {} if self.sampler is None else self.sampler.measured()
        for name, recorder in self.recorders.items():
            recorder.step(number, self.players[name].policy.effective(), {})
        self.recorder.step(number, None if self.method.graded_by_validation else self.policy.effective(), metrics)
        self._note_remarks()
        self.engine.changed = False
        return metrics

    def _probe(self, number: int) -> dict[str, float]:
        """Measure entropy on the probe prompts if it is due at this step."""
        config = self.config
        if not self.probe_prompts or (number - 1) % config.probe_every:
            return {}
        begin = time.perf_counter()
        measured: dict[str, float] = {}
        for role, probes in self.probe_prompts.items():
            player = self.players[self.method.player_of(role)].policy
            measured |= probe_prompts.entropies(player, {role: probes}, config.seed, config.max_tokens_per_microbatch)
        return measured | {"time/probe_seconds": time.perf_counter() - begin}

    def _validate(self) -> dict[str, float]:
        """Ask the validation problems of the policy after the current step, if it is due."""
        if self.validation is None or not validation.is_due(self.config, self.step):
            return {}
        begin = time.perf_counter()
        metrics, rows = validation.measure(self.policy, self.validation, self.config, self.step, self.name)
        self.directory.write_rows(f"validation/step_{self.step}.jsonl", rows)
        return metrics | {"time/validation_seconds": time.perf_counter() - begin}

    def _update(self, number: int, parts: Sequence[Part]) -> dict[str, Any]:
        """Update the players on their batches; return the metrics of the first optimizer steps, with the clip fractions of the last."""
        if not parts:  # a game has nothing to train on in this step
            return {"tokens": 0, "completions_trained": 0, "tokens_with_gradient": 0}
        updates = [self.engine.update(self.players[part.player], self.reference, part.batch, number) for part in parts]
        whole = updates[0] if len(updates) == 1 else updates[0].joined_with(updates[1:])
        kinds = self.policy.token_kinds
        metrics = token_metrics.token_metrics(whole.first, whole.batch, kinds)
        if len(self.players) == 1:
            metrics["grad_norm"] = whole.norm
        metrics |= token_metrics.mismatch(whole.first.logp, whole.batch)
        metrics |= whole.clips
        metrics |= token_metrics.counts(whole.batch, whole.learns, whole.iterations)
        if whole.dropped is not None:
            metrics["clip/cov"] = float(whole.dropped.double().mean())
        if whole.reference is not None:
            metrics["kl"] = token_metrics.kl_to_reference(whole.last, whole.reference)
        if len(self.players) > 1:
            for name in dict.fromkeys(part.player for part in parts):
                own = [done for part, done in zip(parts, updates, strict=True) if part.player == name]
                metrics |= {f"player/{name}/{key}": value for key, value in own[0].joined_with(own[1:]).of_player().items()}
        return metrics

    def save(self, method_state: dict[str, Any] | None = None) -> None:
        """Save the state from which ``--resume`` continues, unless it is saved already.

        Parameters
        ----------
        method_state
            State of the method after the last completed step; that of now if None.
        """
        if self.step and self.saved == self.step:
            return
        for recorder in (self.recorder, *self.recorders.values()):
            recorder.directory.sync()
        kept = self.method.state() if method_state is None else method_state
        with self.engine.collected():
            state.save(self.out / "state", self.step, self.players, kept, last=self.step == self.config.steps)
        self.saved = self.step

    def checkpoint(self) -> None:
        """Save the weights of each player as a Hugging Face folder, unless they are already saved."""
        name = f"step_{self.step:06d}"
        if self.method.graded_by_validation:
            self._choose_graded()
        folders = {self.out / "players" / beside / name: beside for beside in self._beside()}
        for target, player in (folders | {self.out / "checkpoints" / name: self.method.graded}).items():
            if not any((target / file).exists() for file in ("config.json", "adapter_config.json")):
                state.save_model(target, self.players[player].policy)

    def _choose_graded(self) -> None:
        """Let the method choose the graded player by the share of right greedy answers to the validation problems, once a step."""
        config = self.config
        if self._chosen_after == self.step:
            return
        self._chosen_after = self.step
        questions = checks.validation_questions(self.source, config, config.validation_problems, "the choice of the graded player")
        self.method.choose_graded(partial(validation.score, questions=questions, config=config))
        chosen = self.document.setdefault("graded_at", {})
        chosen[str(self.step)] = self.document["graded"] = self.method.graded
        self.directory.write_run(self.document)  # a run that is killed and resumed later does not choose again

    def train(self, on_step: OnStep | None = None) -> None:
        """Run the remaining steps, with the evaluations before and after training."""
        temperatures = self.config.eval_temperatures
        if self.step == 0:
            with self._stopping_at_once():
                self.checkpoint()
                self._evaluate("base", temperatures)
                if self.validation is not None:
                    self.recorder.step(0, None, self._validate())
        while self.step < self.config.steps:
            metrics = self._one_step_or_save()
            if self.step % self.config.save_every == 0 or self.step == self.config.steps or self.step in self.method.milestones:
                self.checkpoint()
                self.save()
            if on_step is not None:
                on_step(self.step, metrics)
            if self.stopping is not None:
                self.save()
                raise self.interruption(self.stopping)
        with self._stopping_at_once():
            self.checkpoint()
            self._evaluate(self._final_name, self.config.eval_trained_temperatures or temperatures[:1])
            self.method.on_train_end(self.directory, self.load_base)
            if self.language == "lab":
                self._report_contamination()

    def _report_contamination(self) -> None:
        """Write what the run was trained on; a run that cannot tell is finished all the same, and says why."""
        try:
            contamination.write(self.out)
        except InputError as error:
            self._note(f"no report on what was trained on: {error}")
        else:
            self.document["contamination"] = contamination.FILE

    @contextmanager
    def _stopping_at_once(self) -> Iterator[None]:
        """Let a signal stop the run at once, also one that came just before."""
        self.stops_at_once = True
        if self.stopping is not None:
            raise self.interruption(self.stopping)
        yield
        self.stops_at_once = False

    def interruption(self, number: int) -> KeyboardInterrupt:
        """Make the exception by which a signal ends the run; it says what is saved."""
        saved = f"the state after step {self.saved} is saved" if self.saved else "no step is saved"
        return interruption(number, f"{saved}; continue with --resume")

    def _evaluate(self, name: str, temperatures: Sequence[float]) -> None:
        with memory("memory ran out in the evaluation", "end other programs, and continue with --resume"):
            self.evaluate_at_temperatures(name, temperatures)
        self._note_remarks()

    def _one_step_or_save(self) -> dict[str, Any]:
        """Run a step; if it fails before the weights changed, save the state after the previous step."""
        before = self.method.snapshot()
        try:
            with memory(f"step {self.step + 1}: memory ran out", OUT_OF_MEMORY):
                return self.one_step()
        except InputError:
            if not self.engine.changed:  # weights, step number and files belong to the same step
                for player in self.players.values():
                    player.optimizer.zero_grad()
                with suppress(InputError):  # a full disk, say, of which the first error tells
                    self.save(before())
            raise

    def finish(self, status: str) -> None:
        """Write the final status to ``run.json``, and close files and processes."""
        self.document["status"] = status
        self.document["time"] = {"recorder_seconds": self.recorder.seconds}
        try:
            self._write_matching()
        finally:
            for recorder in (self.recorder, *self.recorders.values()):
                recorder.close()
            self._close()

    def _close(self) -> None:
        """Stop the processes of the method and of the source."""
        self.method.close()
        sources.close(self.source)


def run(
    method: str,
    config: TrainConfig,
    out: Path,
    resume: bool = False,
    on_step: OnStep | None = None,
    tensorboard: bool = False,
    wandb: str | None = None,
    preset: str | None = None,
    fresh_evaluation: bool = False,
    engine: Engine | None = None,
    sampler: Sampler | None = None,
) -> Run:
    """Train to completion, resuming if asked.

    The first Ctrl-C, SIGTERM or SIGHUP saves and stops after the current step, the second at once; during an evaluation, the first stops at
    once, as the state is saved.

    Parameters
    ----------
    method, config, out, resume, tensorboard, wandb, preset, fresh_evaluation, engine, sampler
        See ``Run``; ``out`` is created if it does not exist.
    on_step
        Called after each step with its number and metrics.

    Returns
    -------
    Run
        The finished run.
    """
    checks.check_run(method, config, out, resume, tensorboard, wandb)
    engine = engine or Local()
    with closing(engine), nullcontext() if sampler is None else closing(sampler), exclusive(out, partial(checks.refuse_busy, out)):
        training = Run(method, config, out, resume, tensorboard, wandb, preset, fresh_evaluation, engine, sampler)
        with _interruptible(training):
            try:
                training.train(on_step)
            except BaseException as error:
                with suppress(InputError):  # the disk may be full, of which this error tells
                    training.finish("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
                raise
            training.finish("finished")
        return training


@contextmanager
def _interruptible(training: Run) -> Iterator[None]:
    """Stop after the current step on the first signal, and at once on the second."""

    def stop(number: int, _frame: object) -> None:
        if training.stops_at_once or training.stopping is not None:
            raise training.interruption(number)
        training.stopping = number

    with handle_signals(stop, signal.SIGINT, *TERMINATING):
        yield


def _machine(device: torch.device) -> dict[str, str]:
    """Describe the hardware that the last bits of a run depend on: device, processor and instruction set."""
    native = policy.native_bfloat16(torch.device("cpu"))
    machine = {
        "device": device.type,
        "processor": policy.cpuinfo("model name") or platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability() + (", bfloat16" if native else ""),
    }
    return machine | ({"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {})


def _words(described: Mapping[str, Any]) -> str:
    return " ".join(f"{name} {value}" if name not in ("name", "version") else str(value) for name, value in described.items())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

"""Train a model and record measurements of the training.

python -m dynamics.train sft  --out runs/sft
python -m dynamics.train rlvr --out runs/rlvr
python -m dynamics.train selfplay --out runs/selfplay
python -m dynamics.train rlvr --model smollm2 --task chain_sum --out runs/chain_sum
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from dynamics.errors import InputError
from dynamics.extras import require

if TYPE_CHECKING:
    from dynamics.train.command_line import Command
    from dynamics.train.loop import Run


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; bad input raises ``InputError``."""
    from dynamics.cli.command import BAD_INPUT, tell
    from dynamics.cli.outputs import check_output, wrote
    from dynamics.io.json import to_json
    from dynamics.train.command_line import parse
    from dynamics.train.settings import size_preset
    from dynamics.train.tasks.prompt_formats import folder_language

    command = parse(argv)
    preset = command.preset or size_preset(None, command.config.model)
    known = {"notation": ("the embedded model", "tiny"), "lab": ("the laboratory", "lab")}.get(folder_language(command.config.model))
    if command.preset is None and known is not None:
        tell(
            f"dynamics.train: {command.config.model}: has the tokenizer of {known[0]}; its defaults are those of --preset {known[1]}, "
            f"but without --preset those of {preset} are used"
        )
    check_output(command.json)
    missing = _missing_package()
    if command.dry_run or missing:
        executors = _check(command)  # wrong settings are named first, missing packages second
    if missing and not command.dry_run:
        raise missing
    if missing:
        tell(f"dynamics.train: {missing}")
    if command.dry_run:
        if executors:
            tell(f"dynamics.train: answers are judged by {'; '.join(executors)}")
        sys.stdout.write(to_json({"method": command.method, "out": str(command.out), "preset": preset, **asdict(command.config)}))
        return
    from dynamics.train.engines import choice, launcher
    from dynamics.train.loop import run
    from dynamics.train.progress import TrainingProgress
    from dynamics.train.samplers import choice as samplers

    choice.check(command.engine, command.processes, command.config)
    samplers.check(command.sampler, command.sampler_memory, command.config)
    sampler = samplers.make(command.sampler, command.sampler_memory, command.config, launcher.world())
    engine = choice.make(command.engine, launcher.world(), command.config, sampler)
    if not engine.leads:
        if not engine.follow():
            raise SystemExit(BAD_INPUT)  # the leader tells why
        return
    with TrainingProgress(command.method, command.config.steps) as progress:
        finished = run(
            command.method,
            command.config,
            command.out,
            resume=command.resume,
            on_step=progress,
            tensorboard=command.tensorboard,
            wandb=command.wandb,
            preset=preset,
            fresh_evaluation=command.fresh_evaluation,
            engine=engine,
            sampler=sampler,
        )
    wrote(f"{command.out}/")
    _report(command, finished)


def _missing_package() -> InputError | None:
    """Describe the package that is missing for training, without importing any."""
    try:
        require(("torch", "transformers"), "training")
    except InputError as error:
        return error
    return None


def _check(command: Command) -> list[str]:
    """Check what a run would check before it starts; say where answers are judged that other packages judge."""
    from dynamics.io.folders import exclusive
    from dynamics.runs.directory import RunDirectory
    from dynamics.train.checks import check_run, refuse_busy
    from dynamics.train.engines import choice
    from dynamics.train.samplers import choice as samplers

    choice.check(command.engine, command.processes, command.config)
    samplers.check(command.sampler, command.sampler_memory, command.config)
    executors = check_run(command.method, command.config, command.out, command.resume, command.tensorboard, command.wandb)
    if command.resume and (command.out / "run.json").exists():
        samplers.refuse_other(RunDirectory(command.out).read_run(), command.sampler, command.out)
    if command.out.is_dir():
        with exclusive(command.out, partial(refuse_busy, command.out)):
            pass
    return executors


def _report(command: Command, run: Run) -> None:
    """Print pass@k of the trained model and of the controls, by ``dynamics.passk`` from the files of ``evals/``."""
    from dynamics import samples
    from dynamics.cli.command import reader_may_leave
    from dynamics.cli.outputs import write
    from dynamics.io.json import to_json
    from dynamics.passk.comparison import report
    from dynamics.train.evaluate import label
    from dynamics.train.lab import problems
    from dynamics.train.tasks import TEST_SETS

    if command.json != "-":
        policy, seconds = run.policy, run.recorder.seconds
        with reader_may_leave():
            print(f"{run.out}: {run.step} steps, {policy.master} masters, computed in {policy.compute}; measuring took {seconds:.1f} s")
    if not run.config.eval_problems:
        return
    table = samples.read([run.out]).table
    base = label("base", run.config.eval_temperatures[0])
    whole = report(table, against=base)
    if command.json:
        write(command.json, to_json(whole.to_dict()))
    if command.json != "-":
        from dynamics.train.terminal import show

        test_sets = table["problem"].astype(str).str.partition(" ")[0]
        parts = [(name, table[test_sets == name]) for name in (*TEST_SETS, *problems.TEST_SETS) if (test_sets == name).any()]
        with reader_may_leave():
            show([("all", whole), *((name, report(part, against=base)) for name, part in parts)])


def cli(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    from dynamics.cli.command import run

    return run("dynamics.train", main, argv)


if __name__ == "__main__":
    sys.exit(cli())

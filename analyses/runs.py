"""Run directories as the analyses see them, and the presets by which ``make figures`` makes some.

What a preset runs is written below in the options of ``python -m dynamics.train``; any other run directory is read the same way.
"""

from __future__ import annotations

import json
import math
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from dynamics import InputError
from dynamics.runs.directory import RunDirectory
from dynamics.runs.schema import current_metrics

#: settings by which runs of one method are told apart -> how a label says it
TELLING = {
    "learning_rate": "learning rate {:g}",
    "master_dtype": "{} masters",
    "proposer_reward": "{} reward",
    "proposer": "{} proposer",
}
METHODS = ("sft", "rlvr", "selfplay")


@dataclass(frozen=True)
class Preset:
    """What is run.

    Attributes
    ----------
    options : of every run; small : of one method; evaluation, controls : of those that are asked held-out problems.
    variants : proposers and rewards of self-play.
    grid : settings in which the ``gridded`` methods are run once more, by name; repeated : those of them with every seed.
    first : options of an SFT run whose result is the base of all others.
    minutes : roughly, all of it on two cores; 0: not for such a machine.
    at_once : runs at the same time; 0: one a core.
    beside : command lines that read no run.
    """

    seeds: int
    options: str
    evaluation: str
    variants: tuple[str, ...]
    grid: dict[str, str]
    gridded: tuple[str, ...] = METHODS
    repeated: tuple[str, ...] = ()
    small: dict[str, str] = field(default_factory=dict)
    controls: str = "1,0.6,0.3,0"
    first: str = ""
    minutes: int = 0
    at_once: int = 0
    beside: tuple[str, ...] = ()


_SLOW, _BF16 = "--learning-rate 3e-5", "--master-dtype bfloat16"
#: base and published result of Absolute Zero, on the Hub
_PAIRS = {"3b": ("Qwen/Qwen2.5-Coder-3B", "andrewzh/Absolute_Zero_Reasoner-Coder-3b")}
_PAIRS["7b"] = ("Qwen/Qwen2.5-Coder-7B", "andrewzh/Absolute_Zero_Reasoner-Coder-7b")
#: 64 samples a problem at temperature 1, graded, in formats that ``dynamics.passk`` reads
_CODE = "evalplus.evaluate --model {model} --dataset {data} --backend vllm --n_samples 64 --temperature 1.0 --root evals/{name}"
_MATHS = "inspect eval inspect_evals/{data} --model vllm/{model} --epochs 64 --temperature 1.0 --log-dir evals/{name}"
_PUBLISHED = (
    *(f"python -m dynamics.sparsity {base} {tuned} --json azr-{size}-sparsity.json" for size, (base, tuned) in _PAIRS.items()),
    *(
        f"python -m dynamics.spectra {base} {tuned} --method approx --json azr-{size}-spectra.json"
        for size, (base, tuned) in _PAIRS.items()
    ),
    *(
        harness.format(model=model, data=data, name=f"{role}-{size}")
        for size, pair in _PAIRS.items()
        for role, model in zip(("base", "azr"), pair, strict=True)
        for harness, sets in ((_CODE, ("humaneval", "mbpp")), (_MATHS, ("aime2024", "aime2025", "math")))
        for data in sets
    ),
    *(f"python -m dynamics.passk base=evals/base-{size} azr=evals/azr-{size} --json azr-{size}-passk.json" for size in _PAIRS),
)
PRESETS = {
    "quick": Preset(
        1,
        "--steps 4 --threads 1 --probe-every 1",
        "--eval-problems 12 --eval-samples 4",
        ("frozen",),
        {"slow": _SLOW, "bf16": _BF16},
        ("sft", "rlvr"),
        small={
            "sft": "--batch-size 8 --num-problems 64",
            "rlvr": "--prompts-per-step 4 --group-size 4 --num-problems 64",
            "selfplay": "--prompts-per-step 4 --group-size 4 --num-seed-tasks 8 --curriculum-samples 4",
        },
        minutes=2,
    ),
    "default": Preset(
        2,
        "--steps 20 --threads 1 --probe-every 5",
        "--eval-problems 120 --eval-samples 32",
        ("frozen", "triangular"),
        {"slow": _SLOW, "bf16": _BF16},
        minutes=10,
    ),
    "full": Preset(
        3,
        "--steps 120 --threads 1",
        "--eval-problems 240 --eval-samples 64",
        ("frozen", "snapshot", "triangular", "variance", "r_zero", "spice"),
        {
            "slow": _SLOW,
            "slower": "--learning-rate 3e-6",
            "bf16": _BF16,
            "bf16-slow": f"{_BF16} {_SLOW}",
            "bf16-slower": f"{_BF16} --learning-rate 3e-6",
        },
        repeated=("slower",),
        minutes=92,
    ),
    "smollm2": Preset(
        3,
        "--steps 12 --warmup-steps 2 --threads 1 --probe-every 11",
        "--eval-problems 36 --eval-samples 8",
        (),
        {"1e-6": "--learning-rate 1e-6", "bf16": _BF16, "bf16-1e-6": f"{_BF16} --learning-rate 1e-6"},
        small={
            "sft": "--batch-size 8 --max-new-tokens 32",
            "rlvr": "--prompts-per-step 4 --group-size 8 --max-new-tokens 32",
            "selfplay": "--prompts-per-step 2 --group-size 4 --max-proposal-tokens 96 --max-new-tokens 32 --num-seed-tasks 4 "
            "--curriculum-samples 8",
        },
        first="--model smollm2 --task proposals+code --steps 40 --learning-rate 1e-4 --eval-problems 0 --probe-every 0",
        minutes=85,
    ),
    "paper": Preset(
        1,
        "--model Qwen/Qwen2.5-Coder-3B --steps 200 --learning-rate 1e-6 --max-new-tokens 1024",
        "--eval-problems 360 --eval-samples 64",
        ("frozen", "triangular"),
        {"bf16": _BF16, "1e-5": "--learning-rate 1e-5"},
        small={
            "sft": "--batch-size 64",
            "rlvr": "--prompts-per-step 64 --group-size 8",
            "selfplay": "--preset azr-paper --max-proposal-tokens 1024",
        },
        at_once=1,
        beside=_PUBLISHED,
    ),
}


BASE = "base"


def plan(preset: str, folder: Path = Path("runs")) -> dict[str, list[str]]:
    """Name of the run in ``folder`` -> method and options for ``python -m dynamics.train``; in the order in which they are made.

    A run called ``base`` comes first and alone: the others begin with its result, and it is no part of the comparison.
    """
    if preset not in PRESETS:
        raise InputError(f"preset {preset!r}: unknown; there are {', '.join(PRESETS)}")
    chosen = PRESETS[preset]
    made: dict[str, list[str]] = {}
    begin: list[str] = []
    if chosen.first:
        made[BASE] = ["sft", *chosen.first.split()]
        steps = int(made[BASE][made[BASE].index("--steps") + 1])
        begin = ["--model", str(folder / BASE / "checkpoints" / f"step_{steps:06d}")]

    def add(name: str, method: str, seed: int, *more: str) -> None:
        options = " ".join([chosen.options, chosen.small.get(method, ""), *more])
        made[f"{name}-{seed}"] = [method, "--seed", str(seed), *begin, *options.split()]

    for seed in range(chosen.seeds):
        for method in reversed(METHODS):  # the longest first
            heat = chosen.controls if method == "sft" else chosen.controls.partition(",")[0]
            add(method, method, seed, chosen.evaluation, f"--eval-temperatures {heat}")
    for setting, how in chosen.grid.items():
        for seed in range(chosen.seeds if setting in chosen.repeated else 1):
            for method in reversed(chosen.gridded):
                add(f"{method}-{setting}", method, seed, "--eval-problems 0", how)
    for seed in range(chosen.seeds):
        for variant in chosen.variants:
            how = f"--proposer {variant}" if variant in ("frozen", "snapshot") else f"--proposer-reward {variant}"
            heat = chosen.controls.partition(",")[0]
            add(f"selfplay-{variant}", "selfplay", seed, chosen.evaluation, f"--eval-temperatures {heat}", how)
    return made


def place(preset: str, folder: Path) -> Path:
    """Where the runs of a preset live, in the folder of all runs."""
    return folder / ("comparison" if preset == "default" else f"comparison-{preset}")


def commands(preset: str, folder: Path) -> list[str]:
    """All that a preset runs, one command line each, and after it what is measured beside: ``PRESETS[preset].beside``."""
    trained = [
        shlex.join(["python", "-m", "dynamics.train", options[0], "--out", str(folder / name), *options[1:]])
        for name, options in plan(preset, folder).items()
    ]
    return [*trained, *PRESETS[preset].beside]


@dataclass(frozen=True)
class Run:
    """One run directory.

    ``usual``: settings that do not tell this run from those it is compared with; ``place``: the seed of a run that does not say it.
    """

    path: Path
    document: dict[str, Any]
    usual: dict[str, Any] = field(default_factory=dict)
    place: int = 0

    @property
    def method(self) -> str:
        return str(self.document.get("method", "unknown"))

    @property
    def seed(self) -> int:
        return int(self.document.get("seed") or self.place)

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved config; a model in the folder that the runs live in is named from there."""
        found = dict(self.document.get("config") or {})
        if found.get("model") and (model := Path(str(found["model"]))).is_relative_to(self.path.parent):
            found["model"] = str(model.relative_to(self.path.parent))
        return found

    @property
    def learning_rate(self) -> float:
        """NaN where the run does not say."""
        return float((self.document.get("config") or {}).get("learning_rate") or "nan")

    @property
    def asked(self) -> bool:
        """Whether it has graded samples of held-out problems."""
        return any((self.path / "evals").glob("*.jsonl"))

    @property
    def has_weights(self) -> bool:
        """Whether it kept the base and a later checkpoint; another trainer's recorder need not."""
        return len(self._saved) > 1

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The settings of ``TELLING`` as they are where nothing is said."""
        from dynamics.train import config as settings

        if self.method not in settings.METHODS:
            return {}
        model = (self.document.get("config") or {}).get("model", "tiny")
        preset = settings.size_preset(self.document.get("preset"), model)
        usual = asdict(settings.METHODS[self.method](**settings.preset_values(self.method, preset)))
        return {name: usual[name] for name in TELLING if name in usual}

    @cached_property
    def label(self) -> str:
        """The method, and the settings in which the run differs from the usual ones."""
        mine, usual = self.document.get("config") or {}, self.defaults | self.usual
        told = [text.format(mine[name]) for name, text in TELLING.items() if name in mine and name in usual and mine[name] != usual[name]]
        return ", ".join([self.method, *told])

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """A row a step."""
        found = lines(self.path / "metrics.jsonl")
        if not found:
            raise InputError(f"{self.path / 'metrics.jsonl'}: holds no step")
        return pd.DataFrame([current_metrics(line) for line in found])

    @property
    def checkpoints(self) -> list[Path]:
        """From the base to the last."""
        if not self.has_weights:
            raise InputError(f"{self.path / 'checkpoints'}: needs the base as step_000000 and a later checkpoint")
        return self._saved

    @cached_property
    def _saved(self) -> list[Path]:
        return sorted((self.path / "checkpoints").glob("step_*"), key=lambda path: int(path.name[5:]))

    @cached_property
    def evals(self) -> pd.DataFrame:
        """A row a graded sample, problems told apart by seed; columns name (``base, T=1`` or the label), problem, split, task, correct."""
        parts = []
        for file in sorted((self.path / "evals").glob("*.jsonl")):
            part = pd.DataFrame(lines(file))
            base = part["model"].str.startswith("base")
            part["name"] = part["model"].where(base, self.label)
            part["problem"] = f"seed {self.seed}: " + part["problem"]
            parts.append(part[["name", "problem", "split", "task", "correct"]])
        return pd.concat(parts) if parts else pd.DataFrame(columns=["name", "problem", "split", "task", "correct"])


def lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; a last one that a killed run left unfinished is passed over."""
    found = []
    try:
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                found.append(json.loads(line))
            except ValueError as error:
                if line.endswith(b"\n"):
                    raise InputError(f"{path}: is not JSON lines ({error})") from None
    except FileNotFoundError:
        raise InputError(f"{path}: is not there; was the run finished?") from None
    return found


def find(paths: Sequence[Path]) -> list[Run]:
    """The runs at these places, each a run directory or a folder of them; in the order of methods, then labels, then seeds.

    In a folder of runs the one called ``base`` is what the others begin with, and left out. Two runs that nothing tells apart are refused:
    they would count as two seeds.
    """
    folders: dict[Path, Path] = {}
    for path in paths:
        there = [path] if (path / "run.json").exists() else sorted(one.parent for one in path.glob("*/run.json"))
        inside = there if len(there) == 1 else [one for one in there if one.name != BASE]
        if not inside:
            raise InputError(f"{path}: is no run directory and holds none (no run.json); make one by python -m dynamics.train")
        folders |= {one.resolve(): one for one in inside}
    runs = [Run(folder, RunDirectory(folder).read_run()) for folder in folders.values()]
    runs = [replace(run, usual=_usual([one for one in runs if one.method == run.method])) for run in runs]
    told: dict[tuple[str, int], Run] = {}
    for run in runs:
        if run.document.get("seed") is None:
            run = replace(run, place=sum(one.label == run.label for one in told.values()))
        key = (run.label, run.seed)
        if key in told:
            raise InputError(f"{run.path}: is {key[0]}, seed {key[1]}, as {told[key].path} is; compare one of them at a time")
        told[key] = run
    order = {name: place for place, name in enumerate(METHODS)}
    return sorted(told.values(), key=lambda run: (order.get(run.method, len(order)), run.label, run.seed))


def _usual(runs: Sequence[Run]) -> dict[str, Any]:
    """Learning rate and dtype of masters that runs of one method have in common: of those that were asked held-out problems, if any were;
    else the defaults, if any run has them; else the most frequent."""
    found = {}
    for name in ("learning_rate", "master_dtype"):
        values = [(run, run.document["config"][name]) for run in runs if name in (run.document.get("config") or {})]
        asked = [value for run, value in values if run.asked]
        every = [value for _, value in values]
        default = runs[0].defaults.get(name)
        if every:
            found[name] = default if not asked and default in every else max(asked or every, key=(asked or every).count)
    return found


def plain(runs: Sequence[Run]) -> list[Run]:
    """Those with the settings that are their method's usual ones; of a method without such a run, all."""
    usual = {run.method for run in runs if run.label == run.method}
    return [run for run in runs if run.label == run.method or run.method not in usual]


def slowest(runs: Sequence[Run]) -> list[Run]:
    """Those at the lowest learning rate at which all methods were run, all else as usual; none if that is not below the usual ones."""
    rates: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        extra = run.label.removeprefix(run.method)
        rates.setdefault(extra, {}).setdefault(run.method, []).append(run)
    whole = [found for extra, found in rates.items() if extra.startswith(", learning rate") and extra.count(",") == 1]
    whole = [found for found in whole if set(found) == {run.method for run in runs}]
    lowest = min(whole, key=lambda found: min(run.learning_rate for part in found.values() for run in part), default={})
    found = [run for part in lowest.values() for run in part]
    usual = min((run.learning_rate for run in plain(runs)), default=math.nan)
    return [run for run in found if not run.learning_rate >= usual]


def with_weights(runs: Sequence[Run]) -> list[Run]:
    """Those that kept their base and a later checkpoint."""
    found = [run for run in runs if run.has_weights]
    if not found:
        raise InputError("none of the runs has checkpoints: needs the base as checkpoints/step_000000 and a later one")
    return found


def matched(runs: Sequence[Run]) -> list[Run]:
    """Those with their method's usual learning rate and dtype of masters, or all of them if there is none."""
    return [run for run in runs if not any(word in run.label for word in (" learning rate ", " masters"))] or list(runs)


def train(preset: str, folder: Path, force: bool = False) -> list[Run]:
    """Make the runs of a preset, side by side on the cores; finished ones are used again, killed ones go on where they were."""
    from dynamics.cli.progress import Bar
    from dynamics.io.threads import cores
    from dynamics.train import tiny

    jobs = plan(preset, folder)
    at_once = PRESETS[preset].at_once or cores()
    left = {name: options for name, options in jobs.items() if force or not _finished(folder / name, options)}
    anew = {name for name in jobs if force or (BASE in left and name != BASE)}  # what began with another base is of no use
    left |= {name: options for name, options in jobs.items() if name in anew}
    if left:
        there = f"; about {PRESETS[preset].minutes} min for all on two cores" if PRESETS[preset].minutes else ""
        say(f"{preset}: {len(jobs)} runs, {len(left)} to do, {at_once} at a time{there}")
        for name in left:
            say(f"  {name}: {' '.join(left[name])}")
        if any("--model" not in options for options in left.values()):
            with Bar("making the embedded model") as bar:
                tiny.find(progress=bar)
    begin, done = time.perf_counter(), 0

    def work(name: str) -> None:
        nonlocal done
        target = folder / name
        if name in anew and target.exists():
            shutil.rmtree(target)
        again = ["--resume"] if (target / "run.json").exists() else []
        command = [sys.executable, "-m", "dynamics.train", left[name][0], "--out", str(target), *left[name][1:], *again]
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode:
            raise InputError(f"{name}: {(ended.stderr.strip().splitlines() or ['failed'])[-1]}")
        shutil.rmtree(target / "state", ignore_errors=True)  # three times the size of the model, and of no use to a run that is finished
        done += 1
        passed = time.perf_counter() - begin
        rest = passed / done * (len(left) - done)
        say(f"  {done}/{len(left)} {name}; {passed / 60:.1f} min, about {rest / 60:.1f} min to go")

    if BASE in left:
        work(BASE)
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for _ in pool.map(work, [name for name in left if name != BASE]):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return find([folder / name for name in jobs if name != BASE])


def _finished(folder: Path, options: list[str]) -> bool:
    """Whether a run is there and whole. One with other settings is refused, rather than replaced."""
    from dynamics.train import command_line, config

    if not (folder / "run.json").exists():
        return False
    there = RunDirectory(folder).read_run()
    forced, computed = config.forced_compute_dtype(), there.get("compute_dtype")
    if forced not in (None, computed) and (there.get("config") or {}).get("compute_dtype") == "auto":
        raise InputError(f"{folder}: computes in {computed}, and {config.COMPUTE_DTYPE} says {forced}; --force makes all runs anew")
    if there.get("status") != "finished":
        return False
    wanted = json.loads(json.dumps(asdict(command_line.parse([options[0], "--out", str(folder), *options[1:]]).config)))
    mine = there.get("config") or {}
    other = [name for name in wanted if wanted[name] != mine.get(name)]
    if "model" in other and Path(wanted["model"]).parts[-3:] == Path(str(mine.get("model"))).parts[-3:]:
        other.remove("model")  # the same checkpoint of the same run, of a folder that was moved
    if other:
        raise InputError(f"{folder}: is finished, with other settings ({', '.join(other)}); --force makes all of them anew")
    return True


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

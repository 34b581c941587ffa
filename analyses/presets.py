"""Presets of the comparison: their runs, as options of ``python -m dynamics.train``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dynamics import InputError
from dynamics.train import cost
from dynamics.train.command_line import parse
from dynamics.train.config import CORRECT, PROPOSED
from dynamics.train.engines import choice

METHODS = ("sft", "rlvr", "selfplay")
#: parts of a preset that can be trained by themselves: the methods with their variants and controls, and the grid of settings
BLOCKS = ("methods", "grid")
#: name of the run whose result all others of its folder start from; it is not part of the comparison
BASE_RUN = "base"


@dataclass(frozen=True)
class Preset:
    """The runs of a comparison.

    Attributes
    ----------
    seeds : number of seeds.
    options : options of every run.
    evaluation : further options of runs that are evaluated on held-out problems.
    selfplay_variants : proposers and rewards of self-play.
    grid : name of a setting -> options; the ``grid_methods`` are trained once more with each.
    grid_methods : methods that are trained with the settings of the grid.
    grid_seeds : setting of the grid -> number of seeds that are trained with it, if more than one.
    grid_evaluation : further options of the runs of the grid.
    method_options : further options of one method.
    base_temperatures : sampling temperatures of the base model, for each seed by the run of SFT, and by games, which may ask other
        problems; RLVR and self-play sample it at the first, as they do the trained model.
    base_run_options : options of an SFT run whose result is the base model of all other runs; empty for none.
    minutes : approximate time of all runs on two cores; 0 if the preset needs other hardware.
    parallel_runs : number of parallel runs; 0 for one per core.
    other_commands : further command lines, which do not read runs.
    bases : model of each seed; the default of the methods for all seeds if empty.
    controls : name of a control -> its method and options, ``{folder}`` for the folder of the runs and ``{seed}`` for the seed. They are
        trained with every seed, after the runs that they read.
    control_temperatures : sampling temperatures of the controls; that of trained models if empty.
    methods : the methods that are compared, the shortest first.
    launcher : what starts the processes of a run, before ``-m dynamics.train``; ``{accelerate}`` stands for the folder of the
        configurations of accelerate. Empty for one process.
    setup : on what the runs are computed, where memory and time are worked out (``dynamics.train.cost``); None where time was measured.
    also : further presets that are made with this one.
    """

    seeds: int
    options: str
    evaluation: str
    selfplay_variants: tuple[str, ...]
    grid: dict[str, str]
    grid_methods: tuple[str, ...] = METHODS
    grid_seeds: dict[str, int] = field(default_factory=dict)
    grid_evaluation: str = "--eval-problems 0"
    method_options: dict[str, str] = field(default_factory=dict)
    base_temperatures: str = "1,0.6,0.3,0"
    base_run_options: str = ""
    minutes: int = 0
    parallel_runs: int = 0
    other_commands: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()
    controls: dict[str, str] = field(default_factory=dict)
    control_temperatures: str = ""
    methods: tuple[str, ...] = METHODS
    launcher: str = ""
    setup: cost.Setup | None = None
    also: tuple[str, ...] = ()

    @property
    def sampling_temperature(self) -> str:
        """Temperature at which trained models are sampled."""
        return self.base_temperatures.partition(",")[0]


_SLOW, _SLOWER, _BF16 = "--learning-rate 3e-5", "--learning-rate 3e-6", "--master-dtype bfloat16"
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
#: base of each seed of the laboratory: that of the installation, and others beside this file
_LAB_BASES = ("lab", *(str(Path(__file__).parent / "bases" / f"lab-{seed}") for seed in range(1, 5)))
#: what all runs from them have in common
_LAB = "--preset lab --threads 1 --validate-every 20"
#: checkpoints for cross-play between the phases of a game
_PHASES = "--save-every 25"
#: enough for all that a run records
_ALL = "--num-problems 1000000"
#: proposals of which difficulty and complexity are measured after training
_CURRICULUM = "--curriculum-samples 400"


def _paper(model: str, machine: cost.Machine, other: tuple[str, ...] = (), also: tuple[str, ...] = ()) -> Preset:
    """Make a preset with a model of the paper, on a node of eight such machines, each with a shard of weights and optimizer."""
    return Preset(
        1,
        f"--model {model} --engine trl --processes 8 --steps 200 --learning-rate 1e-6 --max-new-tokens 1024 --gradient-checkpointing "
        "--max-tokens-per-microbatch 8192 --record-every 5",
        "--eval-problems 128 --eval-samples 16",
        ("frozen", "triangular"),
        {"1e-5": "--learning-rate 1e-5"},
        method_options={
            "sft": "--batch-size 64",
            "rlvr": "--prompts-per-step 64 --group-size 8",
            "selfplay": "--preset azr-code --max-proposal-tokens 1024",
        },
        base_temperatures="1,0.6,0",
        parallel_runs=1,
        other_commands=other,
        launcher="accelerate launch --config_file {accelerate}/fsdp2.yaml",
        setup=cost.Setup(8, sharded=True, machine=machine, trl=True),
        also=also,
    )


PRESETS = {
    "quick": Preset(
        1,
        "--steps 4 --threads 1 --probe-every 1",
        "--eval-problems 12 --eval-samples 4",
        ("frozen",),
        {"slow": _SLOW, "bf16": _BF16},
        ("sft", "rlvr"),
        method_options={
            "sft": "--batch-size 8 --num-problems 64",
            "rlvr": "--prompts-per-step 4 --group-size 4 --num-problems 64",
            "selfplay": "--prompts-per-step 4 --group-size 4 --num-seed-tasks 8 --curriculum-samples 4",
        },
        minutes=2,
    ),
    "default": Preset(
        4,
        "--preset lab --model lab --steps 30 --threads 1 --probe-every 5 --validate-every 10 --validation-problems 80",
        "--eval-problems 240 --eval-samples 8",
        (),
        {},
        method_options={"selfplay": "--curriculum-samples 100"},
        base_temperatures="1,0",
        minutes=7,
    ),
    "full": Preset(
        len(_LAB_BASES),
        _LAB,
        "--eval-samples 16",
        ("frozen", "snapshot", "triangular"),
        {
            "slower": _SLOWER,
            "bf16-slower": f"{_BF16} {_SLOWER}",
            "bf16": _BF16,
            "slow": _SLOW,
            "bf16-slow": f"{_BF16} {_SLOW}",
        },
        grid_seeds={"slower": 3, "bf16-slower": 3},
        grid_evaluation="--validate-every 0 --eval-samples 16 --eval-temperatures 1",
        method_options={"selfplay": _CURRICULUM},
        base_temperatures="1,0",
        minutes=150,
        bases=_LAB_BASES,
        controls={
            "rlvr-estimator": "rlvr --advantage reinforce++-sequence --advantage-cells role-task",
            "rlvr-proposed": f"rlvr --task proposed:{{folder}}/selfplay-{{seed}} {_ALL}",
            "rlvr-proposed-recorded": f"rlvr --task proposed:{{folder}}/selfplay-{{seed}} --data-order recorded {_ALL}",
            "sft-correct": f"sft --task correct:{{folder}}/rlvr-{{seed}} {_ALL}",
        },
    ),
    "smollm2": Preset(
        3,
        "--steps 12 --warmup-steps 2 --threads 1 --probe-every 11",
        "--eval-problems 36 --eval-samples 8",
        (),
        {"1e-6": "--learning-rate 1e-6", "bf16": _BF16, "bf16-1e-6": f"{_BF16} --learning-rate 1e-6"},
        method_options={
            "sft": "--batch-size 8 --max-new-tokens 32",
            "rlvr": "--prompts-per-step 4 --group-size 8 --max-new-tokens 32",
            "selfplay": "--prompts-per-step 2 --group-size 4 --max-proposal-tokens 96 --max-new-tokens 32 --num-seed-tasks 4 "
            "--curriculum-samples 8",
        },
        base_run_options="--model smollm2 --task proposals+code --steps 40 --learning-rate 1e-4 --eval-problems 0 --probe-every 0",
        minutes=85,
    ),
    "games": Preset(
        3,
        _LAB,
        "--eval-samples 16",
        ("frozen",),
        {},
        method_options={
            "selfplay": _CURRICULUM,
            "seirenes": f"{_PHASES} --task lab-deduction",
            "spc": _PHASES,
            "pasodoble": _PHASES,
            "populora": _PHASES,
        },
        base_temperatures="1,0",
        minutes=115,
        bases=_LAB_BASES,
        controls={
            "selfplay-two": f"selfplay --players two --curriculum-samples 60 {_PHASES}",
            "pasodoble-frozen": "pasodoble --proposer frozen",
            "pasodoble-shared": "pasodoble --players shared",
            "spc-frozen-generator": "spc --frozen generator",
            "spc-frozen-critic": "spc --frozen critic",
            "seirenes-none": "seirenes --adversary none",
            "seirenes-snapshot": "seirenes --adversary snapshot",
            "populora-frozen": "populora --proposer frozen",
            "populora-one": "populora --population one",
        },
        control_temperatures="1,0",
        methods=("sft", "rlvr", "seirenes", "spc", "pasodoble", "selfplay", "populora"),
    ),
    "gpu": Preset(
        1,
        "--model Qwen/Qwen2.5-Coder-1.5B --steps 100 --learning-rate 1e-6 --max-new-tokens 512 --gradient-checkpointing "
        "--max-tokens-per-microbatch 8192",
        "--eval-problems 64 --eval-samples 16",
        ("frozen",),
        {"bf16": _BF16, "1e-5": "--learning-rate 1e-5"},
        method_options={
            "sft": "--batch-size 64",
            "rlvr": "--prompts-per-step 32 --group-size 8",
            "selfplay": "--preset azr-code --prompts-per-step 16 --max-proposal-tokens 512 --num-seed-tasks 64",
        },
        base_temperatures="1,0.6,0",
        parallel_runs=1,
        setup=cost.Setup(),
    ),
    "paper": _paper("Qwen/Qwen2.5-Coder-3B", cost.H100, _PUBLISHED, ("paper-7b",)),
    "paper-7b": _paper("Qwen/Qwen2.5-Coder-7B", cost.H200),
}


def plan(preset: str, folder: Path = Path("runs"), block: str | None = None) -> dict[str, list[str]]:
    """List the runs of a preset in order of execution.

    A run named ``base`` runs first and alone: the others start from its result, and it is not part of the comparison.

    Parameters
    ----------
    preset : name of a preset.
    folder : folder of the runs; the base run is looked for there.
    block : one of ``BLOCKS``, with the base run; None for all.

    Returns
    -------
    Name of the run -> method and options for ``python -m dynamics.train``.
    """
    if preset not in PRESETS:
        raise InputError(f"preset {preset!r}: unknown; there are {', '.join(PRESETS)}")
    chosen = PRESETS[preset]
    base_run: dict[str, list[str]] = {}
    start_from: list[str] = []
    if chosen.base_run_options:
        base_run[BASE_RUN] = ["sft", *chosen.base_run_options.split()]
        steps = int(base_run[BASE_RUN][base_run[BASE_RUN].index("--steps") + 1])
        start_from = ["--model", str(folder / BASE_RUN / "checkpoints" / f"step_{steps:06d}")]
    runs: dict[str, list[str]] = {}
    of_block = {"methods": _methods, "grid": _grid}
    for name, method, seed, options in (row for each in BLOCKS if block in (None, each) for row in of_block[each](chosen)):
        shared = f"{chosen.options} {chosen.method_options.get(method, '')}"
        start = ["--model", chosen.bases[seed]] if chosen.bases else start_from
        own = [word.format(folder=folder, seed=seed) for word in options.split()]
        runs[f"{name}-{seed}"] = [method, "--seed", str(seed), *start, *shared.split(), *own]
    return base_run | runs


def reads(options: Sequence[str]) -> str | None:
    """Return the name of the run whose rollouts a run trains on; None if it trains on none."""
    task = options[options.index("--task") + 1] if "--task" in options else ""
    prefix = next((prefix for prefix in (PROPOSED, CORRECT) if task.startswith(prefix)), None)
    return None if prefix is None else Path(task.removeprefix(prefix)).name


def _methods(preset: Preset) -> Iterator[tuple[str, str, int, str]]:
    """Name, method, seed and further options of every run of the methods, of variants of self-play, and of controls."""
    for seed in range(preset.seeds):
        for method in reversed(preset.methods):  # the longest first
            temperatures = preset.sampling_temperature if method in ("rlvr", "selfplay") else preset.base_temperatures
            yield method, method, seed, f"{preset.evaluation} --eval-temperatures {temperatures}"
    for seed in range(preset.seeds):
        for variant in preset.selfplay_variants:
            option = "--proposer" if variant in ("frozen", "snapshot") else "--proposer-reward"
            temperatures = preset.sampling_temperature
            yield f"selfplay-{variant}", "selfplay", seed, f"{preset.evaluation} --eval-temperatures {temperatures} {option} {variant}"
    for seed in range(preset.seeds):
        for name, control in preset.controls.items():
            method, _, options = control.partition(" ")
            temperatures = preset.control_temperatures or preset.sampling_temperature
            yield name, method, seed, f"{preset.evaluation} --eval-temperatures {temperatures} {options}"


def _grid(preset: Preset) -> Iterator[tuple[str, str, int, str]]:
    """Name, method, seed and further options of every run of the grid."""
    for setting, options in preset.grid.items():
        for seed in range(preset.grid_seeds.get(setting, 1)):
            for method in reversed(preset.grid_methods):
                yield f"{method}-{setting}", method, seed, f"{preset.grid_evaluation} {options}"


def made_with(preset: str) -> tuple[str, ...]:
    """Name a preset and those that are made with it."""
    return (preset, *PRESETS[preset].also)


def runs_folder(preset: str, folder: Path) -> Path:
    """Name the folder of a preset's runs, in the folder of all runs."""
    return folder / ("comparison" if preset == "default" else f"comparison-{preset}")


def commands(preset: str, folder: Path, block: str | None = None) -> list[str]:
    """List all that a preset or a block of it runs, one command line each: training runs, then ``PRESETS[preset].other_commands``."""
    start = launcher(preset, "docs/accelerate") or ["python"]
    training = [
        shlex.join([*start, "-m", "dynamics.train", options[0], "--out", str(folder / name), *options[1:]])
        for name, options in plan(preset, folder, block).items()
    ]
    return [*training, *PRESETS[preset].other_commands]


def launcher(preset: str, configurations: str) -> list[str]:
    """List the words that start the processes of a run; none for one process. ``configurations`` is the folder of those of accelerate."""
    return [word.format(accelerate=configurations) for word in PRESETS[preset].launcher.split()]


def written_out(preset: str, folder: Path, block: str | None = None) -> list[str]:
    """List the commands of a preset or a block of it, with memory and hours of each run as comments where they are worked out.

    Raises
    ------
    InputError
        A run has an option that its engine would refuse.
    """
    chosen = PRESETS[preset]
    lines: list[str] = []
    times: list[cost.Time] = []
    for (name, options), command in zip(plan(preset, folder, block).items(), commands(preset, folder, block), strict=False):
        given = parse([options[0], "--out", str(folder / name), *options[1:]])
        try:
            choice.refuse(given.engine, given.config)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        if chosen.setup is not None:
            shape = cost.shape(given.config.model)
            lines += [f"# {line}" for line in cost.described(name, given.config, shape, chosen.setup)]
            times.append(cost.time(given.config, shape, chosen.setup))
        lines.append(command)
    if times:
        lines.insert(
            0,
            f"# {preset}: {len(times)} runs on {chosen.setup.name if chosen.setup else ''}, one after the other: {cost.total(times):.0f} h",
        )
    return [*lines, *chosen.other_commands]

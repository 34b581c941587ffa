"""Train a model, and write down what training did to it.

python -m dynamics.train sft  --out runs/sft
python -m dynamics.train rlvr --out runs/rlvr
python -m dynamics.train selfplay --out runs/selfplay
python -m dynamics.train rlvr --model smollm2 --task chain_sum --out runs/chain_sum
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dynamics.errors import InputError


def _parser() -> argparse.ArgumentParser:
    from dynamics.cli.command import Parser
    from dynamics.train.config import METHODS, PRESETS, add_options

    parser = Parser(
        prog="python -m dynamics.train",
        description="Post-train a model and write a run directory: metrics, rollouts, graded samples, checkpoints.",
        epilog="example: python -m dynamics.train rlvr --steps 100 --out runs/rlvr && python -m dynamics.passk runs/rlvr",
    )
    commands = parser.add_subparsers(dest="method", metavar="METHOD", parser_class=Parser)
    for name, kind in METHODS.items():
        about = (kind.__doc__ or "").partition("\n")[0]
        one = commands.add_parser(
            name, help=about, description=about, epilog=f"example: python -m dynamics.train {name} --steps 100 --out runs/{name}"
        )
        one.add_argument("--out", metavar="DIR", required=True, help="the run directory to write")
        one.add_argument("--resume", action="store_true", help="go on with the run in --out, which must have the same settings")
        one.add_argument("--dry-run", action="store_true", help="print the settings as they would be used, and stop")
        one.add_argument("--json", metavar="FILE", help="write the report on the held-out problems as JSON; - for standard output")
        one.add_argument("--tensorboard", action="store_true", help="also write events for TensorBoard into DIR/tensorboard")
        one.add_argument("--wandb", metavar="PROJECT", help="also log to this project of Weights & Biases")
        if name == "selfplay":
            one.add_argument("--preset", choices=list(PRESETS), help="settings of Absolute Zero; options given beside it go before")
        add_options(one, name)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    from dynamics.cli.outputs import check_output
    from dynamics.io.json import to_json
    from dynamics.train.config import METHODS, resolve

    options = _parser().parse_args(argv)
    if options.method is None:
        raise InputError(f"name a method: {', '.join(METHODS)}; see --help")
    config = resolve(options.method, options)
    if options.dry_run:
        sys.stdout.write(to_json({"method": options.method, "out": options.out, **asdict(config)}))
        return
    check_output(options.json)
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError:
        raise InputError("training needs torch and transformers: pip install 'training-dynamics[models]'") from None
    from dynamics.train.loop import run
    from dynamics.train.progress import TrainingProgress

    with TrainingProgress(options.method, config.steps) as progress:
        done = run(options.method, config, Path(options.out), options.resume, progress, options.tensorboard, options.wandb)
    _report(options, done)


def _report(options: Any, done: Any) -> None:
    """Pass@k of the trained model and of the controls, by ``dynamics.passk`` from the files of ``evals/``."""
    from dynamics import samples
    from dynamics.cli.outputs import write
    from dynamics.io.json import to_json
    from dynamics.passk.comparison import report
    from dynamics.train.config import temperatures
    from dynamics.train.evaluate import label
    from dynamics.train.tasks import TEST_SETS

    out = Path(options.out)
    if options.json != "-":
        spent = done.recorder.seconds
        print(f"{out}: {done.step} steps, {done.policy.master} masters, computed in {done.policy.compute}; measuring took {spent:.1f} s")
    if not done.config.eval_problems:
        return
    table = samples.read([out]).table
    base = label("base", temperatures(done.config)[0])
    whole = report(table, against=base)
    if options.json:
        write(options.json, to_json(whole.to_dict()))
    if options.json != "-":
        from dynamics.train.terminal import show

        parts = table["problem"].astype(str).str.partition(" ")[0]
        found = [(name, table[parts == name]) for name in TEST_SETS if (parts == name).any()]
        show([("all", whole), *((name, report(part, against=base)) for name, part in found)])


def cli(argv: Sequence[str] | None = None) -> int:
    from dynamics.cli.command import run

    return run("dynamics.train", main, argv)


if __name__ == "__main__":
    sys.exit(cli())

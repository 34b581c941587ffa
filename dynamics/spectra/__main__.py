"""The command ``python -m dynamics.spectra``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamics.errors import InputError, printable
from dynamics.io.locations import without_secrets
from dynamics.spectra.comparison import METHODS, SCHEMA, SEQUENCE_FIELDS, Measured, Spectrum, compare
from dynamics.spectra.linalg import MORE, TAIL

if TYPE_CHECKING:
    import argparse

#: fields of a spectrum
FIELDS = {entry.name for entry in fields(Spectrum)}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the matrices and write the requested outputs."""
    from dynamics.cli.command import reader_may_leave
    from dynamics.cli.outputs import check_outputs
    from dynamics.cli.partial import check_complete
    from dynamics.cluster import options as cluster
    from dynamics.spectra.notes import incomplete

    options = cluster.parse(build_parser(), argv)
    check_outputs(options, options.merge or [options.base, options.tuned], {options.resume: ()})
    if options.subspace < 1 or not 0 < options.alpha < 1 or (options.limit is not None and options.limit < 1):
        raise InputError("--subspace and --limit must be at least 1, --alpha between 0 and 1")
    if cluster.is_asked_for(options):
        from dynamics.spectra.parts import MEASURE, open_work, result

        if options.resume:
            raise InputError("--resume: --part and --scheduler keep what is finished in files of their own; leave it out")
        settings = {"only": options.only, "limit": options.limit, "k": options.subspace, "alpha": options.alpha}
        settings |= {"method": options.method, "seed": options.seed}
        made = cluster.run(options, MEASURE, open_work, [options.base, options.tuned], settings, result)
        if made is None:  # a part, which is written
            return
        measured = made
    else:
        measured = _measure(options)
    if "-" not in (options.json, options.csv):
        from dynamics.spectra.terminal import show

        with reader_may_leave():
            show(measured.base, measured.tuned, measured.spectra, measured.skipped, measured.method, remarks=measured.remarks)
    _write(options, measured)
    check_complete(incomplete(measured.spectra, measured.skipped), options)


def _measure(options: argparse.Namespace) -> Measured:
    """Measure the matrices in this process."""
    from dynamics.checkpoints import open_checkpoint
    from dynamics.checkpoints.quantised.notes import explain
    from dynamics.cli.outputs import wrote
    from dynamics.cli.progress import ProgressBar
    from dynamics.io.atomic import Appender
    from dynamics.io.paths import repeated

    resume_file = Path(options.resume) if options.resume else None
    key = {"base": without_secrets(options.base), "tuned": without_secrets(options.tuned), "k": options.subspace, "alpha": options.alpha}
    key |= {"method": options.method, "seed": options.seed}
    done = _read_resume_file(resume_file, key) if resume_file else []
    finished = Appender(resume_file) if resume_file else None
    done_names = {spectrum.name for spectrum in done}
    with ProgressBar("decomposing", "matrices", compiles=True) as bar:

        def append(spectrum: Spectrum, number: int, count: int) -> None:
            bar(number, count)
            if finished is not None and spectrum.name not in done_names:
                finished.append(json.dumps(asdict(spectrum) | {"of": key}).encode() + b"\n")

        base, tuned = open_checkpoint(options.base), open_checkpoint(options.tuned)
        spectra, skipped = compare(
            base,
            tuned,
            only=options.only,
            limit=options.limit,
            k=options.subspace,
            alpha=options.alpha,
            method=options.method,
            seed=options.seed,
            done=done,
            each=append,
        )
    if resume_file:
        wrote(resume_file)
    remarks = [*explain(base, tuned), *repeated([options.base, options.tuned])]
    settings = {"method": options.method, "k": options.subspace, "alpha": options.alpha, "seed": options.seed}
    return Measured(key["base"], key["tuned"], spectra, skipped, remarks, **settings)


def _write(options: argparse.Namespace, measured: Measured) -> None:
    """Write the files that are asked for."""
    from dynamics.cli.outputs import save_figure, write
    from dynamics.io.json import to_json

    spectra, skipped, remarks = measured.spectra, measured.skipped, measured.remarks
    settings = {"method": measured.method, "dtype": "float64", "k": measured.k, "alpha": measured.alpha, "tail": TAIL}
    if measured.method == "approx":
        from dynamics.spectra.randomized_svd import FAILURE

        settings |= {"seed": measured.seed, "directions": measured.k + MORE, "bounds_fail_with_probability": FAILURE}
    if options.json:
        from dynamics.spectra.notes import coverage_of, notes
        from dynamics.spectra.pooled import by_module, pooled

        document = {
            "schema": SCHEMA,
            "coverage": coverage_of(spectra, skipped),
            "base": measured.base,
            "tuned": measured.tuned,
            "settings": settings,
            "notes": [*remarks, *notes(spectra)],
            "pooled": {"total": pooled(spectra), "modules": [{"module": kind} | of_kind for kind, of_kind in by_module(spectra).items()]},
            "matrices": [asdict(spectrum) for spectrum in spectra],
            "skipped": [asdict(skip) for skip in skipped],
        }
        write(options.json, to_json(document))
    if options.csv:
        import pandas as pd

        from dynamics.io.csv import to_csv

        rows = [
            {key: value for key, value in asdict(spectrum).items() if key not in SEQUENCE_FIELDS} | _ends(spectrum) for spectrum in spectra
        ]
        write(options.csv, to_csv(pd.DataFrame(rows)))
    if options.html:
        from dynamics.spectra.page import page

        write(options.html, page(measured.base, measured.tuned, spectra, skipped, settings, remarks))
    if options.figure:
        from dynamics.spectra.plot import figure

        save_figure(figure(spectra), options.figure)


def _ends(spectrum: Spectrum) -> dict[str, float]:
    return {f"{name}_{end}": value for name, ends in spectrum.bounds.items() for end, value in zip(("low", "high"), ends, strict=True)}


def _read_resume_file(path: Path, key: dict[str, Any]) -> list[Spectrum]:
    """Read the spectra that an earlier command with the same settings wrote; drop an incomplete last line."""
    import msgspec

    from dynamics.io.atomic import replacing
    from dynamics.io.json_lines import read_json_lines

    spectra: list[Spectrum] = []
    if not path.exists():
        return spectra
    unfinished: list[int] = []
    for number, row in read_json_lines(path, unfinished):
        try:
            row_key = row.pop("of")
            spectra.append(msgspec.convert(row, Spectrum))
            if set(row) - FIELDS:
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(f"{printable(path)}, line {number}: was not written by this command; name another file for --resume") from None
        if row_key != key:
            raise InputError(f"{printable(path)}: belongs to other checkpoints or settings; name another file for --resume")
    lines = path.read_bytes().splitlines()
    with replacing(path) as temporary:  # without an incomplete last line
        temporary.write_bytes(b"".join(line + b"\n" for line in lines[: len(lines) - len(unfinished)]))
    return spectra


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    from dynamics.cli.command import Parser
    from dynamics.cli.outputs import add_outputs
    from dynamics.cli.partial import add_allow_partial
    from dynamics.cluster.options import add_cluster

    parser = Parser(
        prog="python -m dynamics.spectra",
        description="In which directions did the weights move? Rank, spectral drift and principal angles of the update of every matrix.",
        epilog="example: python -m dynamics.spectra Qwen2.5-0.5B my-run --only 'self_attn' --resume spectra.jsonl --figure spectra.png",
    )
    parser.add_argument("base", metavar="BASE", help="checkpoint before training: a file, a folder, a Hub id or a URL such as s3://...")
    parser.add_argument("tuned", metavar="TUNED", help="checkpoint after training: a file, a folder, a PEFT LoRA folder, a Hub id or a URL")
    parser.add_argument("--only", metavar="REGEX", help="measure only matrices whose names match this regular expression")
    parser.add_argument("--limit", type=int, metavar="N", help="measure only the first N matrices")
    parser.add_argument(
        "--subspace", type=int, default=32, metavar="K", help="number of singular directions that count as principal (default %(default)s)"
    )
    parser.add_argument(
        "--alpha", type=float, default=0.5, help="share of the weights in the masks of principal and of small weights (default %(default)s)"
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="full",
        help="full: exact SVD; approx: leading directions by random projections, with bounds; none: no decomposition (default full)",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of --method approx (default %(default)s)")
    parser.add_argument(
        "--resume",
        metavar="FILE",
        help="write finished matrices to FILE, and read them from it when the command is run again after an interruption",
    )
    add_outputs(parser, "one row per matrix", "profiles over layers, singular values and angles")
    add_allow_partial(parser)
    add_cluster(parser, "matrices")
    return parser


def cli(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    from dynamics.cli.command import run

    return run("dynamics.spectra", main, argv)


if __name__ == "__main__":
    sys.exit(cli())

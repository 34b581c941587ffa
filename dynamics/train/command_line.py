"""The command line of ``python -m dynamics.train``: subcommands and options, made by tyro from the dataclasses of the settings."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Optional, Union, get_args, get_origin, get_type_hints

import tyro

from dynamics.cli.command import tell, wrap_to_terminal
from dynamics.errors import InputError, did_you_mean, printable
from dynamics.runs.schema import RENAMED_SETTINGS
from dynamics.train.config import TrainConfig, check, option_of
from dynamics.train.engines.choice import EngineName
from dynamics.train.samplers.choice import SamplerName
from dynamics.train.settings import METHODS, preset_values

_PROGRAM = "python -m dynamics.train"


def _as_words(values: dict[str, Any]) -> str:
    def words(value: Any) -> str:
        return " ".join(map(words, value)) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)

    return " ".join(f"{option_of(name)} {words(value)}" for name, value in values.items())


def _preset_help(method: str) -> str:
    text = (
        f"defaults of the other options: tiny (those shown here), pretrained ({_as_words(preset_values(method, 'pretrained'))}), or lab "
        f"({_as_words(preset_values(method, 'lab'))}). If not given: tiny and lab for the models of these names, pretrained for all others"
    )
    if method == "selfplay":
        text += (
            ". azr-paper and azr-code override these with the settings of Absolute Zero from its paper or its public code; see --dry-run"
        )
    if method == "populora":
        text += (
            ". paper overrides these with what is known of the paper of PopuLoRA, and Absolute Zero's settings for the rest; see --dry-run"
        )
    return text


@dataclass(frozen=True)
class Command:
    """The options of the command that are not settings of the run.

    Attributes
    ----------
    out : Path
        run directory to write
    resume : bool
        continue the run in --out, which must have the same settings
    dry_run : bool
        check what a run would check before it starts, print the settings as they would be used, and stop
    json : str
        write the report on the held-out problems to this file as JSON; - for standard output
    tensorboard : bool
        also write events for TensorBoard, into the folder tensorboard of the run directory
    wandb : str
        also log to this project of Weights & Biases
    fresh_evaluation : bool
        sample the untrained model anew for the evaluation, also if an earlier run of the same model, problems and settings on this machine
        has left its samples in the cache
    engine : str
        on which processes batches are computed: local (this one) or trl (those that torchrun or accelerate launch started, by TRL)
    processes : int
        number of processes that must be there for --engine trl; by default, those that are
    sampler : str
        what samples completions: transformers (the model itself) or vllm (vLLM, in the same process, with the weights of every step)
    sampler_memory : float
        memory for vLLM's keys and values, in GiB; 4 by default
    """

    method: ClassVar[str]
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    resume: bool = False
    dry_run: bool = False
    json: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    tensorboard: bool = False
    wandb: Annotated[str | None, tyro.conf.arg(metavar="PROJECT")] = None
    fresh_evaluation: bool = False
    engine: EngineName = "local"
    processes: int | None = None
    sampler: SamplerName = "transformers"
    sampler_memory: float | None = None
    preset: str | None = None
    config: TrainConfig = field(default_factory=TrainConfig)


def _command(method: str, kind: type[TrainConfig]) -> type[Command]:
    """Make the class of a method's options, whose fields tyro reads."""
    preset: Any = Annotated[Optional[Literal[tuple(kind.presets)]], tyro.conf.arg(help=_preset_help(method))]  # noqa: UP045
    return make_dataclass(
        f"{method.title()}Command",
        [("preset", preset, None), ("config", kind, field(default_factory=kind))],
        bases=(Command,),
        frozen=True,
        namespace={"method": method, "__doc__": f"Options of ``{method}``.", "__module__": __name__},
    )


_COMMANDS: tuple[type[Command], ...] = tuple(_command(method, kind) for method, kind in METHODS.items())


def parse(argv: Sequence[str] | None = None) -> Command:
    """Read a command line; ``--help`` prints and exits.

    Parameters
    ----------
    argv
        The words after ``python -m dynamics.train``; those of this process if None.

    Returns
    -------
    Command
        With all defaults filled in, and its settings checked.

    Raises
    ------
    InputError
        In one line.
    """
    words = _current_words(list(sys.argv[1:] if argv is None else argv))
    _check_options(words)
    _check_numbers(words)
    command = _parsed(words, None, "tiny")  # for the names of preset and model, on which the defaults depend
    if preset_values(command.method, command.preset, command.config.model):
        command = _parsed(words, command.preset, command.config.model)
    check(command.config)
    return command


class _Screen(io.StringIO):
    """Text that is shown later on standard output, and has colours if that is a terminal."""

    def isatty(self) -> bool:
        """Tell whether standard output is a terminal."""
        return bool(sys.__stdout__ and sys.__stdout__.isatty())


def _parsed(words: list[str], preset: str | None, model: str) -> Command:
    """Parse by tyro, whose boxes of errors become one line, with the defaults of a preset."""
    subcommands: list[Any] = []
    for kind in _COMMANDS:
        values = preset_values(kind.method, preset if preset in METHODS[kind.method].presets else None, model)
        subcommands.append(
            Annotated[
                kind,
                tyro.conf.subcommand(
                    kind.method,
                    default=kind(out=tyro.MISSING, config=METHODS[kind.method](**values)),
                    description=f"{(METHODS[kind.method].__doc__ or '').partition(chr(10))[0]}\n\n"
                    f"example: {_PROGRAM} {kind.method} --steps 100 --out runs/{kind.method}",
                ),
            ]
        )
    union: Any = Union[tuple(subcommands)]  # noqa: UP007
    stdout, stderr = _Screen(), io.StringIO()
    try:
        with redirect_stdout(stdout), redirect_stderr(stderr):
            command, rest = tyro.cli(
                union,
                prog=_PROGRAM,
                description="Post-train a model and write a run directory: metrics, rollouts, graded samples, checkpoints.\n\n"
                f"example: {_PROGRAM} rlvr --steps 100 --out runs/rlvr && python -m dynamics.passk runs/rlvr",
                args=words,
                return_unknown_args=True,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone, tyro.conf.HelptextFromCommentsOff),
            )
    except SystemExit as exit_:
        if not exit_.code:
            sys.stdout.write(wrap_to_terminal(stdout.getvalue()))
            raise
        message = _one_line(stderr.getvalue())
        raise InputError(f"{message}{_suggestion(message)}; see --help") from None
    sys.stderr.write(stderr.getvalue())
    if rest:
        raise InputError(f"{' '.join(rest)}: not recognized; see --help")
    return command


def _one_line(box: str) -> str:
    """Take the message out of a box that tyro draws: what stands beneath its title, up to the next rule."""
    message: list[str] = []
    for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()[1:]:
        text = line.strip(" │")
        is_rule = not text.strip("─-╰╯")
        if is_rule and message:
            break
        if not is_rule:
            message.append(text)
    return " ".join(message).rstrip(".")


def _suggestion(message: str) -> str:
    """Find the choice that was meant, where the message of tyro is about a choice that does not exist."""
    wrong = re.search(r"invalid choice '(.*?)' for argument .*Expected one of \((.*)\)", message)
    return did_you_mean(wrong[1], re.findall(r"'(.*?)'", wrong[2])) if wrong else ""


def _options() -> dict[str, bool]:
    """List all options, of the command and of the settings, and whether they take a list."""
    types = {name: kind for config in METHODS.values() for name, kind in get_type_hints(config).items()}
    types = {setting.name: types[setting.name] for config in METHODS.values() for setting in fields(config)}
    own = [setting.name for setting in fields(Command) if setting.name != "config"]
    return {option_of(name): False for name in own} | {option_of(name): get_origin(kind) is tuple for name, kind in types.items()}


def _check_options(words: list[str]) -> None:
    """Refuse an option that the method does not have, and name the nearest one that it has."""
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        raise InputError(f"name a method first: {', '.join(METHODS)}; see --help")
    config = METHODS.get(words[0])
    if config is None and not words[0].startswith("-"):
        raise InputError(f"{printable(words[0])}: unknown method; there are {', '.join(METHODS)}{did_you_mean(words[0], METHODS)}")
    own = {setting.name for setting in fields(Command)} - {"config"} | {"help"}
    known = [option_of(name) for name in own | {setting.name for setting in fields(config or TrainConfig)}]
    for word in words:
        name = word.partition("=")[0].replace("_", "-")
        if word.startswith("--") and name not in known:
            raise InputError(f"{name}: unknown option{did_you_mean(name, known) or '; see --help'}")


def _check_numbers(words: list[str]) -> None:
    """Refuse what is no number where an option takes one."""
    types = get_type_hints(METHODS[words[0]]) if words[0] in METHODS else {}
    kinds = {option_of(name): {kind, *get_args(kind)} & {int, float} for name, kind in types.items()}
    lists = {option_of(name) for name, kind in types.items() if get_origin(kind) is tuple}
    option = ""
    for word in words[1:]:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            option = name.replace("_", "-")
        else:
            equals, value = "=", word
        if not equals or not (expected := kinds.get(option)):
            continue
        try:
            (float if float in expected else int)(value)
        except ValueError:
            what = "number" if float in expected else "whole number"
            raise InputError(f"{option}: {printable(value)!r} is not a {what}; see --help") from None
        if option not in lists:
            option = ""


def _current_words(words: list[str]) -> list[str]:
    """Replace options by their names of today, with a warning, and take lists with commas apart."""
    renamed = {option_of(old): option_of(new) for old, new in RENAMED_SETTINGS.items()}
    lists = {option for option, is_list in _options().items() if is_list}
    current: list[str] = []
    option = ""
    for word in words:
        if not word.startswith("--"):
            if option == "--allow-unconfined" and word in ("0", "1"):
                _switch(current, word)
            else:
                current += [part for part in word.split(",") if part] if option in lists else [word]
            continue
        old, equals, value = word.partition("=")
        option = renamed.get(old, old)
        if option != old:
            _warn(f"{old} is now {option}; the old name will be removed in the next release")
        if equals and option in lists:
            current += [option, *(part for part in value.split(",") if part)]
        elif equals and option == "--allow-unconfined":
            current.append(option)
            _switch(current, value)
        else:
            current.append(option + equals + value)
    return current


def _switch(words: list[str], value: str) -> None:
    """Read a 0 or 1 after a switch, which took one in earlier versions."""
    _warn("--allow-unconfined takes no value now; 0 and 1 will be refused with the next release")
    if value == "0":
        words.pop()


def _warn(text: str) -> None:
    tell(f"dynamics.train: {text}")

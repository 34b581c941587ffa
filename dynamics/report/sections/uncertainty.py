"""Where base and last checkpoint are unsure: entropy, surprisal and KL on texts of the run, by role and by kind of token."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from dynamics.descriptions import plural
from dynamics.entropy.kinds import KINDS
from dynamics.errors import InputError, printable
from dynamics.extras import require
from dynamics.presentation.text import number, percent
from dynamics.report import kept_passes, plot_uncertainty
from dynamics.report.kept_passes import Passes, plain, restored
from dynamics.report.labels import run_labels
from dynamics.report.passes import Estimate, estimate, measured_speed, parameters_of
from dynamics.report.run_texts import Chosen, choose, described, of_vocabulary
from dynamics.report.section import Change, Doubt, Finding, Options, Picture, Section, Table
from dynamics.report.token_means import by_kind, forking_table, means, with_kinds
from dynamics.runs import Run
from dynamics.runs.nearby import nearby

if TYPE_CHECKING:
    from dynamics.entropy.traces import Trace
    from dynamics.io.threads import Progress

#: estimated seconds up to which models are run unasked
UNASKED = 60.0
#: parameters up to which models are run in float32 whatever their weights are stored as
SMALL = 2_000_000_000
#: texts below which intervals over texts are no good
FEW_TEXTS = 10
#: tokens of a kind below which it is not named in a sentence
FEW_TOKENS = 50
#: name of the change of the entropy on completions
ENTROPY = "entropy of the next token"
PARTS = {"entropy": "base", "entropy_b": "last", "change": "change"}
UNITS = "nats per token; 95 % intervals by a bootstrap over texts"


@dataclass(frozen=True)
class Pair:
    """Two models to run, and the texts.

    Attributes
    ----------
    label : name of the run.
    base, last : what transformers loads.
    step : of the last checkpoint.
    chosen : the texts.
    parameters : of both together.
    """

    label: str
    base: str
    last: str
    step: int | None
    chosen: Chosen
    parameters: int

    @property
    def dtype(self) -> str | None:
        """Dtype of the forward passes; None for the one in which the weights are stored."""
        return "float32" if self.parameters <= 2 * SMALL else None


def make(runs: Sequence[Run], options: Options) -> Section:
    """Measure base and last checkpoint of each run, if that was asked for or is quick."""
    section = Section("uncertainty", "Where is the model unsure?")
    if options.model_passes is False:
        unused = ", so --texts is not used" if options.texts else ""
        section.missing = f"no entropy: the models were not run, as was asked for{unused}; --model-passes runs them"
        return section
    try:
        require(("torch", "transformers"), "measuring entropy")
    except InputError as error:
        section.missing = f"no entropy: {error}"
        section.incomplete += [section.missing] if options.model_passes or options.texts else []
        return section
    pairs, reasons = _pairs(runs, options)
    if not pairs:
        section.missing = f"no entropy: {'; '.join(reasons)}"
        section.incomplete += [section.missing] if options.model_passes or options.texts else []
        return section
    kept = [_kept(pair, options) for pair in pairs]
    new = [pair for pair, passes in zip(pairs, kept, strict=True) if passes is None]
    guess = estimate([(pair.parameters, pair.chosen.tokens) for pair in new], measured_speed()) if new else None
    too_long = guess is not None and options.model_passes is None and guess.seconds > UNASKED
    if guess is not None:
        section.document["estimate"] = vars(guess)
    if guess is not None and too_long:
        unused = ", and --texts is not used" if options.texts else ""
        what = f"running base and last checkpoint takes about {_duration(guess.seconds)}{unused}; --model-passes runs them"
        if len(new) == len(pairs):
            section.missing = f"no entropy: {what}"
            return section
        section.doubts += [Doubt(f"Entropy of {pair.label}: not measured; {what}.") for pair in new]
    section.incomplete += reasons
    for pair, passes in zip(pairs, kept, strict=True):
        if passes is not None or not too_long:
            _measure(pair, passes, options, section, len(pairs) == 1)
    if not section.findings:
        section.missing = f"no entropy: {'; '.join(section.incomplete)}"
        return section
    section.findings[:0] = _side_by_side(section.changes)
    section.findings.append(_time(section, guess if not too_long else None))
    return section


def _side_by_side(changes: Sequence[Change]) -> list[Finding]:
    """Put the entropies of several runs into a sentence."""
    if len(changes) < 2:
        return []
    parts = [
        f"{change.run} from {number(change.start)} to {number(change.end)} nats ({change.value:+.3g} [{change.low:+.3g}, "
        f"{change.high:+.3g}])"
        for change in changes
    ]
    text = f"Mean entropy of the next token on completions, base and last checkpoint: {'; '.join(parts)}. The intervals are over texts. "
    return [Finding(f"{text}Caveat: each run is measured on its own completions, so the runs cannot be compared.", weight=9.0)]


def _time(section: Section, guess: Estimate | None) -> Finding:
    """Say how long the forward passes took, and how long they were estimated to take if they were made now."""
    seconds = sum(part["seconds"] for part in section.document.values() if "notes" in part)
    end = f"estimated beforehand, with loading: {_duration(guess.seconds)}" if guess else "in an earlier report, which kept what they gave"
    return Finding(f"The forward passes took {seconds:.0f} s; {end}.", "seconds", seconds)


def _kept(pair: Pair, options: Options) -> Passes | None:
    """Return what an earlier report kept of a pair; None if there is nothing that can be used."""
    passes = kept_passes.entry(options, pair.base, pair.last, pair.chosen.documents, pair.dtype).read()
    try:
        return passes if passes is not None and len(restored(passes).tokens) else None
    except (ValueError, TypeError):
        return None


def _pairs(runs: Sequence[Run], options: Options) -> tuple[list[Pair], list[str]]:
    """List what can be run; return also why a run cannot be."""
    found = [_pair_or_reason(label, run, options) for label, run in zip(run_labels(runs), runs, strict=True)]
    reasons = [
        each if len(runs) == 1 else f"{label}: {each}" for label, each in zip(run_labels(runs), found, strict=True) if isinstance(each, str)
    ]
    return [each for each in found if isinstance(each, Pair)], reasons


def _pair_or_reason(label: str, run: Run, options: Options) -> Pair | str:
    try:
        return _pair(label, run, options)
    except InputError as error:
        return str(error)


def _pair(label: str, run: Run, options: Options) -> Pair:
    from dynamics.models import check_local_model

    base = options.base or run.base
    if base is None:
        raise InputError("no file says what the base is; --base names it")
    base = nearby(base, run.path)
    if not run.checkpoints:
        raise InputError("there is no checkpoint to compare with the base")
    last = run.checkpoints[-1]
    if options.model_passes is None and not _is_here(base):
        raise InputError(f"the base {printable(base, 80)} is not on this machine; --model-passes downloads it")
    check_local_model(base)
    check_local_model(str(last.path), needs_tokenizer=False)
    chosen = choose(run, options.texts, options.seed)
    if not chosen.documents:
        raise InputError("; ".join(chosen.notes) or "there are no texts to read; --texts names files of them")
    return Pair(label, base, str(last.path), last.step, chosen, _parameters(base, str(last.path), last.adapter))


def _is_here(base: str) -> bool:
    """Tell whether a model can be loaded without a network."""
    if base == "smollm2" or Path(base).exists():
        return True
    from huggingface_hub import try_to_load_from_cache

    try:
        return isinstance(try_to_load_from_cache(base, "config.json"), str)
    except ValueError:  # no name of a model
        return False


def _parameters(base: str, last: str, adapter: bool) -> int:
    """Count the parameters of both models; those of the base are taken to be those of the checkpoint if it is not a folder."""
    if not adapter:
        count = parameters_of(last)
        return count + (parameters_of(base) if Path(base).is_dir() else count)
    if Path(base).is_dir():
        return 2 * parameters_of(base)
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(base, "config.json")
    return 2 * parameters_of(Path(config).parent) if isinstance(config, str) else 0


def _duration(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} minutes" if seconds < 7200 else f"{seconds / 3600:,.1f} hours"


def _measure(pair: Pair, passes: Passes | None, options: Options, section: Section, alone: bool) -> None:
    """Run both models if nothing is kept, and fill the section; what goes wrong makes it incomplete."""

    def tell(done: int, total: int) -> None:
        if options.progress:
            options.progress(f"model passes, {pair.label}", done, total)

    if passes is None:
        tell(0, pair.chosen.tokens)  # loading can take long
        entry = kept_passes.entry(options, pair.base, pair.last, pair.chosen.documents, pair.dtype)
        try:
            passes = _run(pair, tell)
        except InputError as error:
            section.incomplete.append(str(error) if alone else f"{pair.label}: {error}")
            return
        entry.write(passes)
    lost = [*pair.chosen.notes, *passes.lost]
    section.incomplete += lost if alone else [f"{pair.label}: {line}" for line in lost]
    describe(pair, restored(passes), passes.notes, options.seed, alone, section)
    section.commands.append(command(pair))


def _run(pair: Pair, progress: Progress) -> Passes:
    """Run both models. Too little memory is an ``InputError``."""
    from dynamics.entropy.traces import trace
    from dynamics.models import compare_vocabularies, lacks_tokenizer, load, out_of_memory

    try:
        base, tokenizer = load(pair.base, dtype=pair.dtype)
        last, other = load(pair.last, dtype=pair.dtype, tokenizer_of=pair.base)
        notes = compare_vocabularies(tokenizer, other, pair.last)
        if lacks_tokenizer(pair.last):
            notes.append(f"{printable(pair.last, 80)} has no tokenizer: that of the base is used")
        documents, lost = of_vocabulary(pair.chosen.documents, len(tokenizer))
        return plain(trace(base, tokenizer, documents, against=last, rank=False, progress=progress), notes, lost)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise InputError(f"{printable(pair.base, 60)} and {printable(pair.last, 80)} do not fit into memory together") from None


def command(pair: Pair) -> str:
    """Spell the command that measures all texts of the files."""
    files = list(dict.fromkeys(map(str, pair.chosen.files)))
    dtype = ["--dtype", pair.dtype] if pair.dtype else []
    return shlex.join(["python", "-m", "dynamics.entropy", pair.base, *files, "--against", pair.last, *dtype])


def describe(pair: Pair, traced: Trace, notes: Sequence[str], seed: int, alone: bool, section: Section) -> None:
    """Fill the section from a trace of the base, with the last checkpoint as second model."""
    tokens = with_kinds(traced.tokens)
    if "kl_ab" not in tokens or tokens.empty:
        section.incomplete.append(f"{pair.label}: no text has two tokens, or the models' outputs cannot be compared")
        return
    about = {name: (str(details.get("part", "")), str(details.get("role", ""))) for name, details in traced.about.items()}
    written = tokens[~tokens["prompt"]].reset_index(drop=True)
    written = written if len(written) else tokens
    parts = _by_part(tokens, written, about, seed)
    kinds = by_kind(written, seed)
    forking = forking_table(written, seed=seed)
    key, of = ("", "") if alone else (f"/{pair.label}", f" of {pair.label}")
    findings = _findings(parts, kinds, forking, key, of, 10.0 if alone else 5.0)
    section.findings += findings if alone else [replace(finding, run=pair.label) for finding in findings]
    section.changes += _behaviour(pair, parts)
    section.doubts += _doubts(pair, parts, notes, of)
    suffix = "" if alone else f"_{1 + sum(table.name.startswith('uncertainty_by_part') for table in section.tables)}"
    section.tables += _tables(pair, parts, kinds, forking, tokens, suffix, of)
    section.pictures += _pictures(kinds, written, traced, suffix, of)
    section.document[pair.label] = {
        "base": pair.base,
        "last": pair.last,
        "step": pair.step,
        "texts": tokens["text"].nunique(),
        "tokens": len(tokens),
        "dtype": traced.dtype,
        "seconds": traced.seconds,
        "parts": parts.to_dict("records"),
        "kinds": kinds.to_dict("records"),
        "forking": forking.to_dict("records"),
        "notes": list(notes),
    }


def _by_part(tokens: pd.DataFrame, written: pd.DataFrame, about: dict[str, tuple[str, str]], seed: int) -> pd.DataFrame:
    """Average over all completions, over those of each step or file and of each role, and over the prompts."""
    groups = [written.assign(part="completions")]
    of_step, role = ({name: details[index] for name, details in about.items()} for index in (0, 1))
    for names, word in ((of_step, ""), (role, "role ")):
        values = written["text"].map(names)
        if values.nunique() > 1:
            groups.append(written.assign(part=("completions, " + word + values).where(values != "", "completions, no role")))
    if len(written) < len(tokens):
        groups.append(tokens[tokens["prompt"]].assign(part="prompts"))
    return pd.concat([means(group, "part", seed=seed) for group in groups], ignore_index=True)


def _interval(row: pd.Series[float], name: str, sign: str = "") -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "(one text: no interval)" if math.isnan(low) else f"[{low:{sign}.3g}, {high:{sign}.3g}]"


def _shares(row: pd.Series[float], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "(one text: no interval)" if math.isnan(low) else f"[{percent(low, short=True)}, {percent(high, short=True)}]"


def _behaviour(pair: Pair, parts: pd.DataFrame) -> list[Change]:
    """Return the change of the entropy on completions, if it has an interval."""
    every = parts.iloc[0]
    if math.isnan(every["change_low"]):
        return []
    start, end, low, high = (float(every[name]) for name in ("entropy", "entropy_b", "change_low", "change_high"))
    how = f"nats, on the same {plural(int(every['texts']), 'text')}; interval over texts"
    return [Change(pair.label, ENTROPY, start, end, low, high, how)]


def _finding(text: str, key: str, row: pd.Series[float], name: str, weight: float, short: str = "") -> Finding:
    low, high = (None if math.isnan(row[f"{name}_{end}"]) else float(row[f"{name}_{end}"]) for end in ("low", "high"))
    return Finding(text, key, float(row[name]), low, high, weight, short=short)


def _likelier(row: pd.Series[float]) -> str:
    """Say whether texts became more or less likely, if the interval does."""
    if row["surprisal_change_low"] > 0 or row["surprisal_change_high"] < 0:
        return f": the texts became {'less' if row['surprisal_change'] > 0 else 'more'} likely"
    return "; no clear change, the interval contains 0" if row["surprisal_change_low"] == row["surprisal_change_low"] else ""


def _findings(parts: pd.DataFrame, kinds: pd.DataFrame, forking: pd.DataFrame, key: str, of: str, weight: float) -> list[Finding]:
    every = parts.iloc[0]
    unsure = "" if every["change_low"] > 0 or every["change_high"] < 0 else " No clear change: the interval contains 0."
    findings = [
        _finding(
            f"The mean entropy of the next token on completions{of} is {number(every['entropy'])} nats for the base and "
            f"{number(every['entropy_b'])} for the last checkpoint, a change of {every['change']:+.3g} {_interval(every, 'change', '+')} "
            f"({plural(int(every['tokens']), 'token')} of {plural(int(every['texts']), 'text')}, interval over texts).{unsure} Caveat: "
            "both read the same texts; on what each would write itself it may differ.",
            f"entropy_change{key}",
            every,
            "change",
            weight,
            f"The entropy of the next token on completions{of} is {number(every['entropy'])} nats for the base and "
            f"{number(every['entropy_b'])} for the last checkpoint: {every['change']:+.3g} {_interval(every, 'change', '+')}.{unsure} The "
            f"interval is over {plural(int(every['texts']), 'text')}, the same for both.",
        ),
        _finding(
            f"The KL divergence of the last checkpoint from the base, KL(last||base),{of} is {every['kl_ba']:.3g} nats per token "
            f"{_interval(every, 'kl_ba')}, and KL(base||last) {every['kl_ab']:.3g} {_interval(every, 'kl_ab')}; exact over the vocabulary, "
            "on these texts.",
            f"kl_last_base{key}",
            every,
            "kl_ba",
            1.0,
        ),
        _finding(
            f"The mean surprisal of the completions{of} is {number(every['surprisal'])} nats per token for the base and "
            f"{number(every['surprisal_b'])} for the last checkpoint, a change of {every['surprisal_change']:+.3g} "
            f"{_interval(every, 'surprisal_change', '+')}{_likelier(every)}. Caveat: a model finds its own samples likely.",
            f"surprisal_change{key}",
            every,
            "surprisal_change",
            1.0,
        ),
    ]
    top = forking.iloc[0]
    findings.append(
        _finding(
            f"Of the 20 % of tokens with the highest entropy under the base (forking tokens){of}, {percent(top['shared'], short=True)} "
            f"{_shares(top, 'shared')} are among those of the last checkpoint, by chance 20 %; their mean entropy changed by "
            f"{top['change']:+.3g} {_interval(top, 'change', '+')} nats. Ties are broken by position.",
            f"forking_shared{key}",
            top,
            "shared",
            1.0,
        )
    )
    many = kinds[kinds["tokens"] >= FEW_TOKENS]
    if len(many) > 1 and not math.isnan(many["change"].abs().max()):
        most = many.loc[many["change"].abs().idxmax()]
        text = f"Of the kinds with at least {FEW_TOKENS} tokens, the entropy{of} changed most on {most['kind']} ({KINDS[most['kind']]}): "
        text += f"from {number(most['entropy'])} to {number(most['entropy_b'])} nats, {most['change']:+.3g} "
        text += f"{_interval(most, 'change', '+')}. It was chosen as the largest of {len(many)} kinds, so the interval is too narrow."
        findings.append(_finding(text, f"kind_change{key}", most, "change", 1.0))
    return findings


def _doubts(pair: Pair, parts: pd.DataFrame, notes: Sequence[str], of: str) -> list[Doubt]:
    doubts = [Doubt(f"Entropy{of} was measured on {described(pair.chosen)}: it says nothing on other texts.", 2.0, ENTROPY)]
    if parts.iloc[0]["texts"] < FEW_TEXTS:
        text = f"Entropy{of} was measured on {plural(int(parts.iloc[0]['texts']), 'text')} only: intervals over texts are too narrow."
        doubts.append(Doubt(text, 5.0, ENTROPY))
    if pair.dtype is None:
        doubts.append(Doubt(f"The models{of} were run in the dtype of their weights: differences of rounding are in KL and entropy."))
    return doubts + [Doubt(f"Entropy{of}: {note}.") for note in notes]


def _tables(
    pair: Pair, parts: pd.DataFrame, kinds: pd.DataFrame, forking: pd.DataFrame, tokens: pd.DataFrame, suffix: str, of: str
) -> list[Table]:
    numbers = {"tokens": "tokens", "entropy": "entropy, base", "entropy_b": "last", "change": "change", "change_low": "from"}
    numbers |= {"change_high": "to", "surprisal": "surprisal, base", "surprisal_b": "last ", "kl_ba": "KL(last||base)"}
    note = f"{UNITS}. Base: {printable(pair.base, 80)}; last: {printable(pair.last, 120)}."
    definitions = "Kinds, by the text of a token alone, the first that matches: " + "; ".join(
        f"{name}: {text}" for name, text in KINDS.items()
    )
    columns = [name for name in tokens.columns if name not in ("token_id", "offset", "end", "varentropy")]
    return [
        Table(f"uncertainty_by_part{suffix}", f"Entropy{of}, by part", parts, {"part": "part", **numbers}, note=note),
        Table(f"uncertainty_by_kind{suffix}", f"Entropy{of}, by kind of token", kinds, {"kind": "kind", **numbers}, note=definitions + "."),
        Table(
            f"uncertainty_forking{suffix}",
            f"Forking tokens{of}: the 20 % of highest entropy under the base",
            forking,
            {"part": "tokens of", **numbers, "shared": "also in the top 20 % of the last, %"},
            note=UNITS + ".",
        ),
        Table(f"uncertainty_tokens{suffix}", f"All tokens{of}", tokens[columns]),
    ]


def _pictures(kinds: pd.DataFrame, written: pd.DataFrame, traced: Trace, suffix: str, of: str) -> list[Picture]:
    told = "; ".join(f"{row['kind']}: {row['entropy']:.3g} to {row['entropy_b']:.3g}" for row in kinds.to_dict("records"))
    sizes = written.groupby("text", sort=False).size()
    shown = sizes.index[int(sizes.to_numpy().argmax())]
    one = written[written["text"] == shown]
    return [
        Picture(
            f"entropy_by_kind{suffix}",
            f"Entropy by kind of token{of}, base and last checkpoint",
            partial(plot_uncertainty.kinds, kinds),
            f"uncertainty_by_kind{suffix}",
            f"Mean entropy in nats from base to last checkpoint. {told}.",
        ),
        Picture(
            f"coloured_text{suffix}",
            f"The longest completion{of}, coloured by entropy ({printable(str(shown), 60)})",
            partial(plot_uncertainty.coloured, one),
            f"uncertainty_tokens{suffix}",
            "The text: " + printable(traced.texts.get(str(shown), ""), 600),
        ),
    ]

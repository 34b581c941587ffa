"""Align the names of two states of one model by their structure: layer numbers, the end of the module path, and shapes.

A model, its inner model and a larger model around it give the same module different prefixes: ``model.layers.3.mlp.up_proj.weight`` is
``model.language_model.layers.3.mlp.up_proj.weight`` elsewhere. Two prefixes are taken for each other if the names below them are the
same, with the same shapes and layer numbers, and if no other prefix fits as well. What fits twice is not aligned.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dynamics.checkpoints import parameter_names

Shape = tuple[int, ...]
Path = tuple[str, ...]
#: a prefix in the base and the prefix in the tuned checkpoint that stands for it
Rule = tuple[Path, Path]

#: segments that name a model or its inner model, and say nothing about which part of it a tensor belongs to
NEUTRAL = frozenset(
    ["model", "module", "transformer", "language_model", "text_model", "backbone", "gpt_neox", "llm", "lm", "base_model", "inner_model"]
    + ["language", "text", "thinker", "vlm"]
)
#: marks of parts that are never taken for each other, whatever their shapes: two towers, or a model and a copy of it
MARKS: dict[str, re.Pattern[str]] = {
    "vision": re.compile(r"visi|visual|image|img|(^|_)vi[td](_|$)|siglip|pixtral|video"),
    "audio": re.compile(r"audio|speech|whisper|sound"),
    "draft": re.compile(r"^(mtp|draft|eagle|medusa)|nextn"),
    "copy": re.compile(r"(^|_)(ref|reference|ema|teacher|momentum|old|initial|target|frozen|shadow|avg)(_|$)"),
    "critic": re.compile(r"critic|reward|value|(^|_)rm(_|$)"),
    "encoder": re.compile(r"encoder"),
    "decoder": re.compile(r"decoder"),
}
#: marks that one side may leave out
OPTIONAL = frozenset(["encoder", "decoder"])

#: Pairs of names that are tried, and those of them that fit. The work grows with the square of the latter. A model has some hundred kinds
#: of tensors; where there are more than these, names are not aligned.
MOST_PAIRS, MOST_CANDIDATES = 1_000_000, 4_000

#: usual names for a stack of layers
STACKS = frozenset(["layers", "layer", "h", "blocks", "block"])

#: a segment that is a number; with zeros before it, or in other digits, the name could not be put together again
NUMBER = re.compile(r"0|[1-9][0-9]*")
NUMBERED = re.compile(r"^(.*?)(\d+)$")


@dataclass
class Alignment:
    """How names of the tuned checkpoint are called in the base.

    Attributes
    ----------
    renamed : name in the tuned checkpoint -> the base's name for it.
    rules : (prefix in the base, prefix in the tuned checkpoint) -> number of tensors.
    ambiguous : names on either side that fit more than one tensor of the other.
    """

    renamed: dict[str, str] = field(default_factory=dict)
    rules: dict[tuple[str, str], int] = field(default_factory=dict)
    ambiguous: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Pattern:
    """Names that differ only in their layer and expert numbers: segments with ``#`` for numbers, and a shape for each set of numbers."""

    segments: Path
    shapes: Mapping[tuple[int, ...], Shape]

    @property
    def from_layer(self) -> int:
        """Number of segments from the first number on; without numbers, those of the module and its parameter."""
        if "#" in self.segments:
            return len(self.segments) - self.segments.index("#")
        return min(len(self.segments), 2 if self.segments[-1] in ("weight", "bias") else 1)


def align(base: Mapping[str, Shape], tuned: Mapping[str, Shape], common: Iterable[str] = ()) -> Alignment:
    """Find prefixes of ``tuned`` that stand for other prefixes of ``base``.

    Parameters
    ----------
    base, tuned : name -> shape, of the tensors that have no counterpart of the same name.
    common : names that both sides have.

    Returns
    -------
    Alignment, in which every name of either side occurs once at most.
    """
    found = Alignment()
    ours, theirs = _patterns(base), _patterns(tuned)
    candidates = _candidates(ours, theirs)
    shared = set(common)
    used_base: set[Path] = set()
    used_tuned: set[Path] = set()
    closed: set[Rule] = set()
    accepted: set[Rule] = set()
    while True:
        rules = _rules(candidates, used_base, used_tuned)
        open_rules = {
            rule: pairs for rule, pairs in rules.items() if rule not in closed and _plausible(*rule, pairs, ours, theirs, accepted)
        }
        if not open_rules:
            return _name_the_rest(found, base, tuned, shared)
        rule = max(open_rules, key=lambda rule: (_weight(open_rules[rule], ours), rule))
        pairs = open_rules[rule]
        closed.add(rule)
        if doubles := _doubles(rule, pairs, shared, ours, theirs):
            found.ambiguous |= doubles
            used_base |= {path for path, _ in pairs}
            used_tuned |= {path for _, path in pairs}
            continue
        if rival := _rival(rule, rules, ours):
            for other in (rule, rival):
                closed.add(other)
                for path, their_path in rules[other]:
                    used_base.add(path)
                    used_tuned.add(their_path)
                    found.ambiguous |= {_name(path, key) for key in ours[path].shapes}
                    found.ambiguous |= {_name(their_path, key) for key in theirs[their_path].shapes}
            continue
        accepted.add(rule)
        prefixes = (".".join(rule[0]), ".".join(rule[1]))
        for path, their_path in pairs:
            used_base.add(path)
            used_tuned.add(their_path)
            for key in ours[path].shapes.keys() & theirs[their_path].shapes.keys():
                found.renamed[_name(their_path, key)] = _name(path, key)
                found.rules[prefixes] = found.rules.get(prefixes, 0) + 1
        found.ambiguous |= _also_named(rule, shared, theirs)


def _patterns(shapes: Mapping[str, Shape]) -> dict[Path, _Pattern]:
    tables: dict[Path, dict[tuple[int, ...], Shape]] = defaultdict(dict)
    for name, shape in shapes.items():
        path, key = _path(name)
        tables[path][key] = shape
    return {path: _Pattern(path, table) for path, table in tables.items()}


def _path(name: str) -> tuple[Path, tuple[int, ...]]:
    segments = name.split(".")
    return tuple("#" if NUMBER.fullmatch(s) else s for s in segments), tuple(int(s) for s in segments if NUMBER.fullmatch(s))


def _name(path: Path, numbers: tuple[int, ...]) -> str:
    remaining = iter(numbers)
    return ".".join(str(next(remaining)) if segment == "#" else segment for segment in path)


def _candidates(ours: Mapping[Path, _Pattern], theirs: Mapping[Path, _Pattern]) -> list[tuple[Path, Path, int]]:
    """List pairs of patterns that could be the same tensors, with the number of last segments they share; only the longest of each."""
    by_end: dict[Path, list[Path]] = defaultdict(list)
    for path, pattern in theirs.items():
        by_end[path[-pattern.from_layer :]].append(path)
    if sum(len(by_end.get(path[-pattern.from_layer :], ())) for path, pattern in ours.items()) > MOST_PAIRS:
        return []
    candidates = [
        (path, other, _common_end(path, other))
        for path, pattern in ours.items()
        for other in by_end.get(path[-pattern.from_layer :], [])
        if _compatible(pattern, theirs[other]) and _same_marks(path, other)
    ]
    if len(candidates) > MOST_CANDIDATES:
        return []
    longest: dict[tuple[int, Path], int] = defaultdict(int)
    for path, other, length in candidates:
        for end in ((0, path), (1, other)):
            longest[end] = max(longest[end], length)
    return [(path, other, length) for path, other, length in candidates if length == longest[0, path] == longest[1, other]]


def _common_end(path: Path, other: Path) -> int:
    length = 0
    while length < min(len(path), len(other)) and path[-1 - length] == other[-1 - length]:
        length += 1
    return length


def _compatible(pattern: _Pattern, other: _Pattern) -> bool:
    """Tell whether one pattern has all the numbers of the other, and the same shapes there."""
    common = pattern.shapes.keys() & other.shapes.keys()
    if not common or len(common) < min(len(pattern.shapes), len(other.shapes)):
        return False
    return all(_same_shape(pattern.segments, pattern.shapes[key], other.shapes[key]) for key in common)


def _same_shape(path: Path, shape: Shape, other: Shape) -> bool:
    if shape == other:
        return True
    rows_only = "#" not in path and len(shape) == len(other) >= 1 and shape[1:] == other[1:]
    return rows_only and parameter_names.kind(".".join(path)) in ("embedding", "head")


def _marks(path: Path) -> frozenset[str]:
    return frozenset(mark for mark, words in MARKS.items() if any(words.search(segment) for segment in path))


def _same_marks(path: Path, other: Path) -> bool:
    length = _common_end(path, other)
    ours, theirs = _marks(path[:-length]), _marks(other[:-length])
    different = ours ^ theirs
    return different <= OPTIONAL and not ({"encoder", "decoder"} <= different)


def _rules(
    candidates: Iterable[tuple[Path, Path, int]], used_base: set[Path], used_tuned: set[Path]
) -> dict[Rule, list[tuple[Path, Path]]]:
    """Group candidates whose names still have no counterpart by the prefixes in which they differ."""
    rules: dict[Rule, list[tuple[Path, Path]]] = defaultdict(list)
    for path, other, length in candidates:
        if path not in used_base and other not in used_tuned:
            rules[path[:-length], other[:-length]].append((path, other))
    return rules


def _weight(pairs: Iterable[tuple[Path, Path]], ours: Mapping[Path, _Pattern]) -> int:
    return sum(len(ours[path].shapes) for path, _ in pairs)


def _plausible(
    prefix: Path,
    other: Path,
    pairs: list[tuple[Path, Path]],
    ours: Mapping[Path, _Pattern],
    theirs: Mapping[Path, _Pattern],
    accepted: set[Rule],
) -> bool:
    """Tell whether two prefixes may stand for each other.

    They name the same; or the same stack of layers lies below them, or below a name for a stack of layers in them.
    """
    if _without_neutral(prefix) == _without_neutral(other):
        return True
    if any(rule[0][:-1] == prefix and rule[1][:-1] == other and {rule[0][-1], rule[1][-1]} <= STACKS for rule in accepted if all(rule)):
        return True
    numbered = [pair for pair in pairs if "#" in pair[0]]
    in_ours = _kinds_in(_stacks(path for path, _ in numbered), ours)
    in_theirs = _kinds_in(_stacks(path for _, path in numbered), theirs)
    return len(numbered) >= 2 and 3 * len(numbered) >= min(in_ours, in_theirs)


def _stacks(paths: Iterable[Path]) -> set[Path]:
    """Return the paths of the stacks of layers that hold numbered tensors."""
    return {path[: path.index("#")] for path in paths}


def _kinds_in(stacks: set[Path], patterns: Iterable[Path]) -> int:
    """Count the kinds of tensors in stacks of layers."""
    return sum("#" in path and path[: path.index("#")] in stacks for path in patterns)


def _without_neutral(prefix: Path) -> Path:
    return tuple(segment for segment in prefix if segment not in NEUTRAL)


def _rival(
    rule: Rule,
    rules: Mapping[Rule, list[tuple[Path, Path]]],
    ours: Mapping[Path, _Pattern],
) -> Rule | None:
    """Find another rule that gives a name of this rule another counterpart and explains at least half as many tensors.

    Tensors that cannot be read (quantised in an unknown format) are not here, so the right rule can explain fewer than a wrong one.
    """
    to_tuned = dict(rules[rule])
    to_base = {other: path for path, other in rules[rule]}
    weight = _weight(rules[rule], ours)
    for rival, pairs in rules.items():
        if (
            rival != rule
            and 2 * _weight(pairs, ours) >= weight
            and any(to_tuned.get(path, other) != other or to_base.get(other, path) != path for path, other in pairs)
        ):
            return rival
    return None


def _doubles(
    rule: Rule,
    pairs: list[tuple[Path, Path]],
    shared: set[str],
    ours: Mapping[Path, _Pattern],
    theirs: Mapping[Path, _Pattern],
) -> set[str]:
    """Find names that both sides have and that mean the same as one prefix of a rule, but not as the other; and the names of the rule.

    With ``model`` on both sides, ``model.language_model`` of one side could stand for it as well as for ``expert`` of the other.
    """
    meanings = {_without_neutral(prefix) for prefix in rule}
    if len(meanings) == 1:
        return set()
    ends = {path[-ours[path].from_layer :]: path for path, _ in pairs if "#" in path}
    doubles = set()
    for name in shared:
        path, key = _path(name)
        if "#" not in path or (pattern := ends.get(path[path.index("#") :])) is None or ours[pattern].shapes.get(key) is None:
            continue
        before = path[: path.index("#")]
        stacks = {_without_neutral(pair[: pair.index("#")]) for pair in (pattern, dict(pairs)[pattern])}
        if _without_neutral(before) in stacks:
            doubles.add(name)
    if doubles:
        doubles |= {_name(path, key) for path, _ in pairs for key in ours[path].shapes}
        doubles |= {_name(path, key) for _, path in pairs for key in theirs[path].shapes}
    return doubles


def _also_named(rule: Rule, shared: set[str], theirs: Mapping[Path, _Pattern]) -> set[str]:
    """Find names that both sides have, although by the rule the tuned checkpoint has the tensor under another name, which is there too."""
    doubtful = set()
    for name in shared:
        path, key = _path(name)
        other = (*rule[1], *path[len(rule[0]) :])
        if path[: len(rule[0])] == rule[0] and other in theirs and key in theirs[other].shapes:
            doubtful |= {name, _name(other, key)}
    return doubtful


def _name_the_rest(found: Alignment, base: Mapping[str, Shape], tuned: Mapping[str, Shape], shared: set[str]) -> Alignment:
    """Rename what is left of the tuned checkpoint as its neighbours are: fused or stacked modules, which have no counterpart by name."""
    rules_below: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for name, other in [*found.renamed.items(), *((name, name) for name in shared)]:
        segments, base_segments = name.split("."), other.split(".")
        length = _common_end(tuple(segments), tuple(base_segments))
        rule = (".".join(base_segments[:-length]), ".".join(segments[:-length]))
        for end in range(len(segments) - length, len(segments)):
            rules_below[".".join(segments[:end])].add(rule)
    taken = set(found.renamed.values())
    for name in sorted(tuned.keys() - found.renamed.keys() - found.ambiguous):
        renamed = _as_neighbours(name, rules_below)
        if renamed != name and renamed not in taken and (renamed not in base or _turned(base[renamed], tuned[name])):
            found.renamed[name] = renamed
            taken.add(renamed)
    return found


def _as_neighbours(name: str, rules_below: Mapping[str, set[tuple[str, str]]]) -> str:
    """Rename a tensor by the rule of the names that share most of its path, if they have one rule."""
    segments = name.split(".")
    for end in range(len(segments) - 1, -1, -1):
        if rules := rules_below.get(".".join(segments[:end])):
            if len(rules) > 1:
                return name
            base_prefix, prefix = next(iter(rules))
            rest = name.removeprefix(f"{prefix}." if prefix else "")
            return f"{base_prefix}.{rest}" if base_prefix else rest
    return name


def _turned(shape: Shape, other: Shape) -> bool:
    """Tell whether two stacks of matrices differ in the order of rows and columns."""
    return len(shape) == len(other) == 3 and shape == (other[0], other[2], other[1])


def renumbered(base: Iterable[str], tuned: Iterable[str]) -> set[str]:
    """Find names of either side whose numbers are shifted: layers 0-27 against 1-28, or ``norm0, norm1`` against ``norm1, norm2``.

    Their equal names belong to different modules. A side that only lacks numbers (a model cut off, an added layer) is not shifted.
    """
    sides = [_numbers(base), _numbers(tuned)]
    shifted = set()
    for place in sides[0].keys() & sides[1].keys():
        ours, theirs = (side[place] for side in sides)
        differ = ours.keys() - theirs.keys() and theirs.keys() - ours.keys() and min(ours) != min(theirs)
        if differ and (place[-1] == "" or len(ours) == len(theirs)):
            shifted |= {name for names in (ours, theirs) for members in names.values() for name in members}
    return shifted


def _numbers(names: Iterable[str]) -> dict[tuple[str, ...], dict[int, list[str]]]:
    """Group names by the places of their numbers: (path before, stem of the segment) -> number -> names."""
    places: dict[tuple[str, ...], dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in names:
        path: list[str] = []
        for segment in name.split("."):
            if segment[-1:].isdecimal() and (match := NUMBERED.match(segment)):
                place = (*path, match.group(1))
                places[place][int(match.group(2))].append(name)
            path.append("#" if segment.isdecimal() else segment)
    return places

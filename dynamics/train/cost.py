"""Memory and time of a run, worked out from the shape of its model: nothing is loaded, and torch is not imported.

All formulas are here, and docs/scaling.md has them in words, with what was measured. A figure is as good as ``Assumed``: what a model
samples, how long its answers are, and how much of its peak a machine reaches are not known before a run. No figure is of a run on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from dynamics.errors import InputError, did_you_mean
from dynamics.train.config import PolicyGradientConfig, RLVRConfig, SelfPlayConfig, SFTConfig, TrainConfig

GB = 1e9
#: rows that ``samplers.transformers.generate`` decodes at once
ROWS = 1024
#: more micro-batches than the first batch needs (``engines.trl.SLACK``)
SLACK = 1.5
#: bytes of logits in a chunk (``policy.CHUNK_BYTES``), and the number of such chunks that are held at once
CHUNK, CHUNKS = 24 << 20, 4
#: bytes that drawing a token holds for each row and token of the vocabulary: logits, their copy in float32, weights, and these padded
DRAWN = 16
#: share of the memory that may be planned: what is freed in pieces is not found again in one
FULL = 0.9
#: layers whose whole weights FSDP2 holds at once: the one that is computed, and the next
GATHERED = 2


@dataclass(frozen=True)
class Shape:
    """A decoder of the kind of Llama and Qwen2: RMSNorm, grouped queries, a gated MLP.

    Attributes
    ----------
    vocabulary, hidden, layers, heads, key_heads, intermediate : as in ``config.json``.
    tied : whether the output head is the embedding.
    bias : whether queries, keys and values have biases.
    """

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    key_heads: int
    intermediate: int
    tied: bool = True
    bias: bool = False

    @property
    def keys(self) -> int:
        """Numbers of a key, and of a value, of one token in one layer."""
        return self.hidden // self.heads * self.key_heads

    @property
    def layer(self) -> int:
        """Weights of a layer that are in products of matrices."""
        return 2 * self.hidden * (self.hidden + self.keys) + 3 * self.hidden * self.intermediate

    @property
    def products(self) -> int:
        """Weights by which the state of a token is multiplied: all but the embedding, norms and biases."""
        return self.layers * self.layer + self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """Number of weights."""
        small = 2 * self.hidden + (self.hidden + 2 * self.keys if self.bias else 0)
        return self.layers * (self.layer + small) + self.hidden + self.vocabulary * self.hidden * (1 if self.tied else 2)


#: The published ``config.json`` of each model on the Hub. The sums of the weights are those that are published too (0.494, 1.544, 3.086 and
#: 7.616 billion; Qwen2.5-Coder has the shapes of Qwen2.5, arXiv 2409.12186, table 1). The first two are shipped with this project.
SHAPES = {
    "tiny": Shape(64, 128, 3, 4, 4, 384),
    "lab": Shape(184, 128, 4, 4, 4, 384),
    "smollm2": Shape(49152, 576, 30, 9, 3, 1536),
    "Qwen/Qwen2.5-Coder-0.5B": Shape(151936, 896, 24, 14, 2, 4864, bias=True),
    "Qwen/Qwen2.5-Coder-1.5B": Shape(151936, 1536, 28, 12, 2, 8960, bias=True),
    "Qwen/Qwen2.5-Coder-3B": Shape(151936, 2048, 36, 16, 2, 11008, bias=True),
    "Qwen/Qwen2.5-Coder-7B": Shape(152064, 3584, 28, 28, 4, 18944, tied=False, bias=True),
}


def shape(model: str) -> Shape:
    """Return the shape of a model that is in ``SHAPES``."""
    if model not in SHAPES:
        raise InputError(f"{model}: its shape is not known here; there are {', '.join(SHAPES)}{did_you_mean(model, SHAPES)}")
    return SHAPES[model]


@dataclass(frozen=True)
class Machine:
    """A GPU, or the processor of a process.

    Attributes
    ----------
    name : for people.
    memory : bytes.
    flops : products and sums a second in the dtype of computation, at their peak.
    bandwidth : bytes a second between its memory and its cores.
    link : bytes a second in each direction to the others of the node.
    reserved : bytes that the driver, libraries and the buffers of communication take.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float
    link: float
    reserved: float = 3 * GB


#: data sheets: dense bfloat16, memory and its bandwidth; NVLink in one direction
H100 = Machine("H100, 80 GB", 80 * GB, 989e12, 3.35e12, 450e9)
H200 = Machine("H200, 141 GB", 141 * GB, 989e12, 4.8e12, 450e9)
MACHINES = (H100, H200)


@dataclass(frozen=True)
class Assumed:
    """What is not known before a run. The defaults are guesses for a GPU, not measurements.

    Attributes
    ----------
    problem, proposal : tokens of the prompt of a problem, and of that of a proposal with its references.
    filled : mean length of a completion, as a share of its limit.
    valid : share of proposals that are valid.
    utilisation : share of the peak that products of large matrices reach.
    traffic : share of the bandwidth, of memory and of links, that is reached.
    layer : seconds that starting the kernels of a layer takes for one token of each row; sampling is bound by it.
    judged : programs that rank 0 runs a second.
    recorded : weights that rank 0 measures a second.
    """

    problem: int = 150
    proposal: int = 600
    filled: float = 0.5
    valid: float = 0.5
    utilisation: float = 0.3
    traffic: float = 0.6
    layer: float = 1e-3
    judged: float = 500.0
    recorded: float = 0.3e9


EXPECTED = Assumed()
#: between which the time lies unless a guess is further off than these
BEST = Assumed(filled=0.25, valid=1.0, utilisation=0.45, traffic=0.8, layer=0.5e-3, judged=1000.0, recorded=1e9)
WORST = Assumed(filled=1.0, utilisation=0.15, traffic=0.4, layer=1.6e-3, judged=250.0, recorded=0.1e9)


@dataclass(frozen=True)
class Setup:
    """On what a run is computed.

    Attributes
    ----------
    processes : number of processes, each with a machine of its own.
    sharded : whether FSDP2 shards weights, gradient and moments.
    machine : of each process.
    compute : bytes of a number in forward and backward passes: 2 for bfloat16, 4 for float32.
    trl : whether TRL computes the gradient (``--engine trl``).
    layers : whether ``samplers.layer_decoder`` samples, as it does on a CPU: it joins matrices, and holds each prompt once.
    """

    processes: int = 1
    sharded: bool = False
    machine: Machine = H100
    compute: int = 2
    trl: bool = False
    layers: bool = False

    @property
    def name(self) -> str:
        """For people."""
        kind = "FSDP2" if self.sharded else "DDP" if self.processes > 1 else "one process"
        return f"{self.processes} x {self.machine.name}, {kind}"


@dataclass(frozen=True)
class Call:
    """Completions that are sampled at once: prompts, completions of each, the largest number of new tokens, and whether they propose."""

    prompts: int
    group: int
    limit: int
    proposes: bool = False

    def prompt(self, assumed: Assumed) -> int:
        """Return the tokens of a prompt."""
        return assumed.proposal if self.proposes else assumed.problem


def calls(config: TrainConfig, valid: float = 1.0) -> list[Call]:
    """List what a step samples, one call after the other, where this share of the proposals is valid: nobody answers the others.

    Raises
    ------
    InputError
        The method is not known here.
    """
    if isinstance(config, SFTConfig):
        return []
    if isinstance(config, RLVRConfig):
        return [Call(config.prompts_per_step, config.group_size, config.max_new_tokens)]
    if not isinstance(config, SelfPlayConfig):
        raise InputError(f"{type(config).__name__.removesuffix('Config').lower()}: its cost is not worked out; sft, rlvr and selfplay are")
    tasks = config.prompts_per_step * len(config.task_types)
    answered = Call(math.ceil(valid * tasks), config.group_size, config.max_new_tokens)
    filled = replace(answered, prompts=tasks - answered.prompts if config.solver_batch == "max_new" else 0)
    # with a delay, the tasks of the step before are answered anew; then those that fill the batch from the buffer
    return [
        Call(tasks, 1, config.max_proposal_tokens, proposes=True),
        *[answered] * (1 + config.solver_delay),
        *([filled] if filled.prompts else []),
    ]


def completions(config: TrainConfig) -> list[Call]:
    """List what a step trains on, at most, grouped by prompt."""
    if isinstance(config, SFTConfig):
        return [Call(config.batch_size, 1, config.max_new_tokens)]
    if not isinstance(config, SelfPlayConfig):
        return calls(config)
    proposed, solved = calls(config)[:2]
    return [proposed, replace(solved, group=config.solver_samples or config.group_size)]


def evaluations(config: TrainConfig) -> list[Call]:
    """List what the evaluation samples, from the untrained model and from the trained one."""
    if not config.eval_problems:
        return []
    sets = [config.eval_temperatures, config.eval_trained_temperatures or config.eval_temperatures[:1]]
    groups = [sum(config.eval_samples if temperature else 1 for temperature in temperatures) for temperatures in sets]
    return [Call(config.eval_problems, group, config.max_new_tokens) for group in groups]


def rows(call: Call, processes: int) -> list[int]:
    """List the numbers of rows that the busiest process decodes, one batch after the other."""
    prompts = math.ceil(call.prompts / processes)
    together, at_once = max(1, ROWS // call.group), min(call.group, ROWS)
    batches = [min(together, prompts - begin) * at_once for begin in range(0, prompts, together)]
    return batches * math.ceil(call.group / ROWS)


@dataclass(frozen=True)
class Microbatches:
    """The micro-batches of a gradient in the busiest process: their number, and the tokens of the largest, padding included."""

    count: int
    tokens: int


def microbatches(config: TrainConfig, setup: Setup, assumed: Assumed) -> Microbatches:
    """Work out the micro-batches.

    One process packs completions behind their prompt, each prompt once, without padding. TRL's rows have a prompt each, are as wide as the
    widest, and there are as many as fill all micro-batches of the process that has most.
    """
    kinds = completions(config)
    most = config.max_tokens_per_microbatch
    if not setup.trl:
        widths = [call.prompt(assumed) + call.group * assumed.filled * call.limit for call in kinds]
        total = sum(call.prompts * width for call, width in zip(kinds, widths, strict=True))
        return Microbatches(math.ceil(total / most), round(min(total, most)))  # a longer completion is computed in pieces
    count = math.ceil(sum(call.prompts * call.group for call in kinds) / setup.processes)
    widest = max(call.prompt(assumed) + call.limit for call in kinds)
    needed = count * widest / most
    chunks = 1 if needed <= 1 / SLACK else math.ceil(needed * SLACK)
    return Microbatches(chunks, math.ceil(count / chunks) * widest)


def per_token(shape: Shape, compute: int) -> int:
    """Bytes that a layer keeps of each token for the backward pass.

    Two norms keep their input, normalised and scaled states, in float32; projections, attention and the gated MLP keep theirs in the dtype
    of computation, and rotated queries and keys in float32. In bfloat16 the inputs of products are kept once more, narrow.
    """
    hidden, keys, inner = shape.hidden, shape.keys, shape.intermediate
    if compute == 4:
        return 4 * (13 * hidden + 4 * keys + 4 * inner)
    return 38 * hidden + 10 * keys + 8 * inner


def of_keys_and_values(shape: Shape, compute: int) -> int:
    """Bytes of keys and values of a token: rotated keys are float32 also where values are bfloat16."""
    return shape.layers * shape.keys * (4 + compute)


@dataclass(frozen=True)
class Memory:
    """Bytes that a process holds in each phase of a run, by part.

    Attributes
    ----------
    phases : name of a phase -> name of a part -> bytes.
    limit : bytes that there are.
    """

    phases: dict[str, dict[str, float]]
    limit: float

    def of(self, phase: str) -> float:
        """Return the bytes of a phase."""
        return sum(self.phases[phase].values())

    @property
    def largest(self) -> str:
        """Name of the phase that takes most."""
        return max(self.phases, key=self.of)

    @property
    def fits(self) -> bool:
        """Whether all phases fit, with room for what the allocator cannot use."""
        return self.of(self.largest) <= FULL * self.limit


def copies(config: TrainConfig) -> int:
    """Count the models that each process holds whole: the policy, a second player, and the base where anything computes with it."""
    base = isinstance(config, PolicyGradientConfig) and bool(config.kl_coef)
    base = base or (isinstance(config, SelfPlayConfig) and config.proposer == "snapshot")
    return 1 + (isinstance(config, SelfPlayConfig) and config.players == "two") + base


def memory(config: TrainConfig, shape: Shape, setup: Setup, assumed: Assumed = EXPECTED) -> Memory:
    """Work out the memory of the process that holds most, which is that of rank 0: prompts and completions as long as they may be.

    Parameters
    ----------
    config : settings of the run.
    shape : of its model.
    setup : on what it is computed.
    assumed : of it, only the length of prompts is used.
    """
    weights, shares = shape.parameters, setup.processes if setup.sharded else 1
    width = 4 if config.master_dtype == "float32" else 2
    players = 1 + (isinstance(config, SelfPlayConfig) and config.players == "two")
    separate = width == 2 and setup.compute == 4  # masters beside the weights that compute
    always = {"reserved": setup.machine.reserved, "whole weights": copies(config) * (4 if separate else width) * weights}
    if separate:
        always["masters"] = players * width * weights
    if setup.sharded:
        always["shards of the weights"] = players * 4 * weights / shares
    elif setup.processes > 1:
        always["buckets of the gradient"] = players * 4 * weights
    moments = {"moments": players * 2 * width * weights / shares}
    narrow = {"narrow copy of the weights": 2.0 * weights} if setup.compute == 2 and width == 4 else {}
    micro = microbatches(config, setup, replace(assumed, filled=1.0))
    update: dict[str, float] = {"gradient": width * weights / shares} | moments
    if setup.sharded:
        update["whole gradient"] = 4.0 * weights if micro.count > 1 else 0.0
        update["gathered layers"] = setup.compute * (GATHERED * shape.layer + shape.vocabulary * shape.hidden)
    else:
        update |= narrow
    each = per_token(shape, setup.compute)
    kept = 4 * shape.hidden * shape.layers + each if config.gradient_checkpointing else each * shape.layers
    update["activations"] = micro.tokens * kept
    chunk = min(CHUNK, 4 * shape.vocabulary * micro.tokens)
    update["logits"] = CHUNKS * chunk + 4.0 * shape.vocabulary * shape.hidden  # and the gradient of the head
    phases = {"updating": update}
    sampled = [("sampling", calls(config)), ("evaluating", evaluations(config))]
    for name, asked in sampled:
        if asked:
            most = max(max(rows(call, setup.processes)) for call in asked)
            largest = max(_kept(call, max(rows(call, setup.processes)), setup, assumed) for call in asked)
            held: dict[str, float] = {
                "keys and values": largest * of_keys_and_values(shape, setup.compute),
                "logits": float(DRAWN * most * shape.vocabulary),
            }
            if setup.layers:
                joined = shape.hidden * (shape.hidden + 2 * shape.keys + 2 * shape.intermediate)
                held["joined matrices"] = float(setup.compute * shape.layers * joined)
            else:
                held["one layer spread over its heads"] = 2.0 * setup.compute * largest * shape.hidden
            phases[name] = moments | narrow | held
    if setup.sharded:
        whole = {"whole moments": players * 8.0 * weights}
        phases["saving"] = moments | whole
        phases["resuming"] = moments | whole
    return Memory({name: always | parts for name, parts in phases.items()}, setup.machine.memory)


def _kept(call: Call, count: int, setup: Setup, assumed: Assumed) -> float:
    """Count the tokens whose keys and values are kept for this number of rows at their longest."""
    prompts = count / min(call.group, ROWS) if setup.layers else count
    return prompts * call.prompt(assumed) + count * call.limit


@dataclass(frozen=True)
class Time:
    """Seconds of a run.

    Attributes
    ----------
    step : name of a part of a step -> seconds.
    steps : number of steps.
    evaluation : seconds of the evaluation.
    """

    step: dict[str, float]
    steps: int
    evaluation: float = 0.0
    flops: dict[str, float] = field(default_factory=dict)

    @property
    def of_step(self) -> float:
        """Seconds of a step."""
        return sum(self.step.values())

    @property
    def hours(self) -> float:
        """Hours of the run."""
        return (self.steps * self.of_step + self.evaluation) / 3600


def forward(shape: Shape, tokens: float, context: float, predicted: float | None = None) -> float:
    """Count the operations of a forward pass: 2 for each weight and token, 4 for each number of queries and token attended to.

    Parameters
    ----------
    shape : of the model.
    tokens : that pass through the layers.
    context : mean number of tokens that a token attends to.
    predicted : tokens that pass through the output head; all if None.
    """
    head = shape.vocabulary * shape.hidden * (tokens if predicted is None else predicted)
    return 2 * (tokens * shape.layers * shape.layer + head) + 4 * shape.layers * shape.hidden * tokens * context


def sampling(call: Call, shape: Shape, setup: Setup, assumed: Assumed, width: int = 4) -> float:
    """Work out the seconds of sampling: prompts, then a token of each row at a time until the longest row ends, at the limit.

    A token takes the time to start the kernels of all layers, to read the weights, the keys and the values, and to multiply; nothing is
    taken to overlap.
    """
    machine, total, prompt = setup.machine, 0.0, call.prompt(assumed)
    narrow = setup.compute if width == 4 else width
    for count in rows(call, setup.processes):
        prompts = count / min(call.group, ROWS)
        mean = assumed.filled * call.limit
        active = count * assumed.filled  # rows leave when they end
        context = prompt + mean / 2
        read = narrow * shape.products + active * (context * of_keys_and_values(shape, setup.compute) + DRAWN * shape.vocabulary)
        work = forward(shape, active, context)
        token = assumed.layer * shape.layers + read / (assumed.traffic * machine.bandwidth) + work / (assumed.utilisation * machine.flops)
        first = forward(shape, prompts * prompt, prompt / 2, prompts) / (assumed.utilisation * machine.flops)
        total += first + call.limit * token
    return total


def measured(config: TrainConfig, shape: Shape, assumed: Assumed) -> float:
    """Count the operations of the log-probabilities of a step's completions, where each prompt is computed once."""
    kinds = completions(config)
    lengths = [assumed.filled * call.limit for call in kinds]
    predicted = sum(call.prompts * call.group * length for call, length in zip(kinds, lengths, strict=True))
    tokens = sum(call.prompts * call.prompt(assumed) for call in kinds) + predicted
    context = max(call.prompt(assumed) + length / 2 for call, length in zip(kinds, lengths, strict=True))
    return forward(shape, tokens, context, predicted)


def time(config: TrainConfig, shape: Shape, setup: Setup, assumed: Assumed = EXPECTED) -> Time:
    """Work out the seconds of a step and of a run.

    Parameters
    ----------
    config : settings of the run.
    shape : of its model.
    setup : on what it is computed.
    assumed : what is not known before it.
    """
    machine, weights, count = setup.machine, shape.parameters, setup.processes
    rate, moved = assumed.utilisation * machine.flops, assumed.traffic * machine.link
    asked, kinds = calls(config, assumed.valid), completions(config)
    flops: dict[str, float] = {}
    if setup.trl:  # the log-probabilities before the update, each process those of its completions
        flops["measuring"] = measured(config, shape, assumed) / count
        micro = microbatches(config, setup, assumed)
        padded = micro.count * micro.tokens
        once = forward(shape, padded, max(call.prompt(assumed) + call.limit for call in kinds) / 2)
    else:
        micro, once = Microbatches(1, 0), measured(config, shape, assumed)
    iterations = config.num_iterations if isinstance(config, PolicyGradientConfig) else 1
    flops["update"] = iterations * once * (4 if config.gradient_checkpointing else 3)
    if isinstance(config, PolicyGradientConfig) and config.kl_coef:
        flops["reference"] = measured(config, shape, assumed) / count
    step = {"sampling": sum(sampling(call, shape, setup, assumed) for call in asked)}
    step |= {name: work / rate for name, work in flops.items()}
    step["optimizer"] = iterations * 28 * weights / (count if setup.sharded else 1) / (assumed.traffic * machine.bandwidth)
    others = (count - 1) / count
    if setup.sharded:  # whole layers forward and backward in each micro-batch; the gradient once; the new weights for sampling once
        step["communication"] = iterations * others * weights * (2 * setup.compute * micro.count + 4 + 4) / moved
    elif count > 1:
        step["communication"] = iterations * others * 2 * 4 * weights / moved
    answers = sum(call.prompts * call.group for call in asked)
    step["judging"] = answers / assumed.judged
    every = config.record_every or (10 if isinstance(config, SFTConfig) else 1)
    step["recording"] = weights / assumed.recorded / every
    evaluation = sum(sampling(call, shape, setup, assumed) + call.prompts * call.group / assumed.judged for call in evaluations(config))
    return Time({name: seconds for name, seconds in step.items() if seconds}, config.steps, evaluation, flops)


def total(times: Sequence[Time]) -> float:
    """Return the hours of runs, one after the other."""
    return sum(each.hours for each in times)


def formulas() -> list[str]:
    """Say in lines how memory and time are worked out, and with which assumptions."""
    at, low, high = EXPECTED, BEST, WORST
    return [
        "P weights, N processes; bytes for float32 weights and computation in bfloat16; see docs/scaling.md, also for what was measured",
        "memory of rank 0: a whole model 4P, its copy in bfloat16 2P; gradient 4P, moments 8P; DDP: buckets of the gradient 4P",
        "with FSDP2: shards of weights, gradient, moments 16P/N; gradient of micro-batches until it is shared 4P; to save, all moments 8P",
        "activations: (38 hidden + 10 keys + 8 intermediate) a token and layer; with checkpointing that of one layer, and 4 hidden of each",
        "keys and values: rows x (prompt + limit) x layers x keys x 6, with every row at its limit",
        "seconds of a token of all rows: layers x start of a layer + bytes read / bandwidth + operations / rate; a call: limit x that",
        "seconds of an update: operations / rate, 2P a token forward, twice that backward, forward again with checkpointing",
        f"start of a layer {1000 * at.layer:g} ms ({1000 * low.layer:g} to {1000 * high.layer:g}), rate {at.utilisation:.0%} of the peak "
        f"({high.utilisation:.0%} to {low.utilisation:.0%}), bandwidth {at.traffic:.0%} ({high.traffic:.0%} to {low.traffic:.0%}): assumed",
        f"completions {at.filled:.0%} of their limit ({low.filled:.0%} to {high.filled:.0%}), {at.valid:.0%} of proposals valid, prompts "
        f"of {at.problem} tokens, of proposals {at.proposal}, {at.judged:g} programs a second: assumed",
    ]


def described(name: str, config: TrainConfig, shape: Shape, setup: Setup) -> list[str]:
    """Describe a run in lines: memory of each phase with its parts, and hours with their range and the parts of a step."""
    held = memory(config, shape, setup)
    lines = []
    for phase, parts in held.phases.items():
        listed = " + ".join(f"{part} {size / GB:.1f}" for part, size in parts.items() if size >= GB / 20)
        lines.append(f"{name}, memory while {phase}: {held.of(phase) / GB:.0f} GB = {listed}")
    most = held.of(held.largest)
    verdicts = [f"{'fits' if most <= FULL * machine.memory else 'does NOT fit'} in {machine.name}" for machine in MACHINES]
    lines.append(f"{name}: {most / GB:.0f} GB at most, while {held.largest}: {', '.join(verdicts)}")
    expected, best, worst = (time(config, shape, setup, assumed) for assumed in (EXPECTED, BEST, WORST))
    step = ", ".join(f"{part} {seconds:.3g}" for part, seconds in sorted(expected.step.items(), key=lambda item: -item[1]))
    lines.append(
        f"{name}: {expected.hours:.1f} h ({best.hours:.1f} to {worst.hours:.1f}): {expected.steps} steps of {expected.of_step:.3g} s "
        f"({step}), evaluation {expected.evaluation / 60:.0f} min"
    )
    return lines

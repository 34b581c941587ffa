"""The policy: a causal language model with master weights, a compute dtype, and log-probabilities of completions.

Prompts and completions are packed into one row without padding, which contains each prompt once, with attention under which a completion
attends to its prompt and to itself. When a model is loaded, this is checked against the model's own log-probabilities on a few tokens; if
they differ, each completion gets its own row. Logits are computed from hidden states in chunks, once for the values and, unless one chunk
holds all, again for the gradient (``entropy.logits.logits_gradient``); they are never held as tokens x vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dynamics.entropy.logits import from_logits, logits_gradient
from dynamics.errors import InputError
from dynamics.models import Head
from dynamics.rope import RotaryState, length_rule
from dynamics.train import attention
from dynamics.train.batch import Batch, PackedRows, completion_offsets, pack_rows, pad_left, token_indices
from dynamics.train.completions import Request, SampledCompletion
from dynamics.train.config import forced_compute_dtype
from dynamics.train.token_kinds import TokenKinds

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: bytes of float32 logits per chunk
CHUNK_BYTES = 24 << 20
#: hidden size from which bfloat16 is faster than float32 on hardware with bfloat16 arithmetic (benchmarks/compute_dtype.py)
BFLOAT16_HIDDEN_SIZE = 512


def compute_dtype(requested: str, device: torch.device, hidden_size: int) -> str:
    """Choose ``float32`` or ``bfloat16`` for a model of this hidden size.

    ``auto`` is the value of ``DYNAMICS_COMPUTE_DTYPE`` if set; otherwise bfloat16 for models of hidden size 512 or more on devices with
    bfloat16 arithmetic. In smaller models, casts take longer than the matrix products save; and the embedded model computes in the same
    dtype on every machine.
    """
    if requested != "auto":
        return requested
    wide = hidden_size >= BFLOAT16_HIDDEN_SIZE
    return forced_compute_dtype() or ("bfloat16" if wide and native_bfloat16(device) else "float32")


def native_bfloat16(device: torch.device) -> bool:
    """Whether the device has native bfloat16 matrix multiplication."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))  # emulated, it is slower than float32
    if device.type != "cpu":
        return False
    flags = cpuinfo("flags").split()
    return "amx_bf16" in flags or "avx512_bf16" in flags


def cpuinfo(field: str) -> str:
    """Read a field of the first processor in /proc/cpuinfo, such as ``flags`` or ``model name``; empty if unavailable."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        return next((line.partition(":")[2].strip() for line in file if line.partition(":")[0].strip() == field), "")
    return ""


class Workers(Protocol):
    """Processes that hold the same policies, each with the whole weights, and share the work of sampling and measuring."""

    def sample(self, policy: Policy, request: Request, /) -> list[list[SampledCompletion]]:
        """Sample completions; see ``sampling.sample``."""

    def measure(self, policy: Policy, batch: Batch, tokens: int, share: bool | None, /) -> Float32[Tensor, "3 tokens"]:
        """Compute log-probabilities, entropies and surprisals; see ``Policy.measure``."""


class Sampler(Protocol):
    """Draws completions from policies in this process, instead of their own models; see ``samplers.checked``."""

    def sample(self, policy: Policy, request: Request, /) -> list[list[SampledCompletion]]:
        """Sample completions; returns those of each prompt."""

    def describe(self) -> dict[str, Any]:
        """Return what ``run.json`` says of it, with its ``name``."""

    def measured(self) -> dict[str, float]:
        """Return metrics of what was sampled since they were asked for; none if nothing was."""

    def close(self) -> None:
        """Give back the memory."""


@dataclass(frozen=True)
class Piece:
    """Completion tokens whose gradient is computed at once.

    Attributes
    ----------
    rows : the tokens.
    values : log-probabilities, entropies and surprisals, as from ``Policy.logprobs``.
    later : keys and values of the piece, with the gradients that later pieces of the sequence gave them.
    """

    rows: PackedRows
    values: tuple[Float32[Tensor, " tokens"], Float32[Tensor, " tokens"], Float32[Tensor, " tokens"]]
    later: Sequence[tuple[Tensor, Tensor]] = ()

    def backward(self, loss: Float[Tensor, ""]) -> None:
        """Add the gradient of a loss of this piece's values, and of what later pieces computed from it."""
        torch.autograd.backward([loss, *(part for part, _ in self.later)], [None, *(slope for _, slope in self.later)])


class Policy:
    """A model with the master weights that the optimizer updates.

    With float32 master weights, the masters are the model's parameters, and bfloat16 compute uses autocast. With bfloat16 master weights
    and float32 compute, the model has float32 copies of the masters: only the update is rounded to bfloat16.

    Attributes
    ----------
    tokenizer : from transformers.
    master, compute : dtypes of the master weights and of forward and backward passes, ``float32`` or ``bfloat16``.
    masters : master weights by name.
    separate : whether the masters are separate from the model's parameters.
    autocast : dtype of autocast; None if it is not used.
    head : output head, for logits in chunks; None if the model must compute its logits itself.
    eos : token ids that end a completion.
    token_kinds : tells the kinds of tokens.
    shares : whether samples can be packed into one row, in which completions of a prompt share it.
    checkpointed : layers whose activations are computed again in the backward pass.
    window : longest prompt and completion that can be packed, for models that attend to a sliding window; None if there is no limit.
    rotary : how the rotary embeddings depend on the length of a sequence; longer ones than its limit are refused.
    remarks : lines about its use that belong into the record of a run.
    shared_by : the processes that sample from it and measure with it together; None if this process does so alone.
    sampler : draws completions from it in this process; None if its own model does.
    version : grows with each change of the master weights, after which ``update_model`` is called.
    """

    shared_by: Workers | None = None
    sampler: Sampler | None = None
    version: int = 0

    def __init__(self, model: Any, tokenizer: Any, master: str = "float32", compute: str = "float32", gradient_checkpointing: bool = False):
        from dynamics.models import wrap

        self.tokenizer = tokenizer
        self._activate: Callable[[], None] | None = None
        separate = master == "bfloat16" and compute == "float32"
        self._model = model.to(torch.float32 if separate else DTYPES[master])
        self.model.eval()
        self.autocast = torch.bfloat16 if compute == "bfloat16" and master == "float32" else None
        self.device: torch.device = next(model.parameters()).device
        self.master, self.compute = master, compute
        self.masters: dict[str, torch.nn.Parameter] = {name: value for name, value in model.named_parameters() if value.requires_grad}
        if separate:
            self.masters = {name: torch.nn.Parameter(value.detach().to(torch.bfloat16)) for name, value in self.masters.items()}
            self.update_model()
        self.separate = separate
        head = wrap(self.model, tokenizer).head
        supported = head is not None and head.bias is None and not head.softcap and head.size == head.weight.shape[0]
        self.head: Head | None = head if supported else None
        self.eos = self._eos_token_ids()
        self.token_kinds = TokenKinds(tokenizer, self.eos)
        self.window: int | None = getattr(self.model.config.get_text_config(), "sliding_window", None)
        self.rotary = length_rule(self.model.config)
        state = RotaryState(self.model) if self.rotary.kinds else None
        self.shares = self._attends_alike()
        if state is not None:  # the tokens of the check may have been too many
            state.restore()
        self.remarks: list[str] = []
        self._require_eval_mode()
        self.checkpointed: list[torch.nn.Module] = checkpointed_layers(self.model) if gradient_checkpointing else []

    @property
    def model(self) -> Any:
        """The model with the weights of this policy. If policies share it (``lora.SharedBase``), it has them until another's is read."""
        if self._activate is not None:
            self._activate()
        return self._model

    def _eos_token_ids(self) -> list[int]:
        if self.tokenizer.eos_token_id is None:
            raise InputError("the tokenizer has no end-of-sequence token, so completions would never end")
        of_model = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        ids = {self.tokenizer.eos_token_id, *(of_model if isinstance(of_model, list) else [of_model])}
        return sorted(token for token in ids if token is not None)

    def copy(self) -> Policy:
        """Return another policy with the same weights, in memory of its own."""
        other = Policy(copy.deepcopy(self.model), self.tokenizer, self.master, self.compute)
        other.sampler = self.sampler
        return other

    def effective(self) -> Mapping[str, Tensor]:
        """Return the weights that are measured, by name: the masters."""
        return self.masters

    def save(self, folder: Path) -> None:
        """Save the master weights into a folder, in the format of Hugging Face."""
        from dynamics.models import save_quietly

        model = self.model
        if self.separate:  # the model's parameters equal the bfloat16 masters, so the conversion is exact
            model = copy.deepcopy(model).to(torch.bfloat16)
        save_quietly(model, self.tokenizer, folder)

    def update_model(self) -> None:
        """Copy the master weights into the model's parameters; to be called after every change of these."""
        self.version += 1
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                if name in self.masters and value is not self.masters[name]:
                    value.copy_(self.masters[name])

    def move_gradients(self) -> None:
        """Move the gradients of the model's parameters to the master weights."""
        if self.separate:
            for name, value in self.model.named_parameters():
                if name in self.masters:
                    self.masters[name].grad = None if value.grad is None else value.grad.to(self.masters[name].dtype)
                    value.grad = None

    @contextlib.contextmanager
    def trained_by_others(self) -> Iterator[Any]:
        """Give the model to a trainer that computes gradients by its own forward passes, and switch it back to evaluation mode."""
        try:
            yield self.model
        finally:
            self.model.eval()

    def _require_eval_mode(self) -> None:
        """Raise InputError in training mode: with dropout, the trained policy would differ from the sampling policy."""
        if any(module.training for module in self.model.modules()):
            raise InputError("the model is in training mode: its dropout would be active")

    @contextlib.contextmanager
    def _autocasting(self) -> Iterator[None]:
        with torch.autocast(self.device.type, self.autocast) if self.autocast else contextlib.nullcontext():
            yield

    @contextlib.contextmanager
    def _checkpointing(self) -> Iterator[None]:
        """Let the layers of ``checkpointed`` keep their inputs only. transformers does so in training mode, with dropout, only."""
        for layer in self.checkpointed:  # of the instance, and removed again, so that copies of the model have their own
            layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
        try:
            yield
        finally:
            for layer in self.checkpointed:
                del layer.forward

    def _hidden_states(self, rows: PackedRows, past: attention.Past | None) -> Tensor:
        """Hidden states (tokens, hidden) that predict each completion token; logits instead if ``head`` is None."""
        ids = torch.from_numpy(rows.ids).to(self.device)
        positions = torch.from_numpy(rows.positions).to(self.device)
        body = self.model.base_model if self.head is not None else self.model
        options: dict[str, Any] = {}
        if rows.segments is not None:  # padded rows are padded on the right, where causal attention does not look
            options["layout"] = attention.Layout.of(rows.segments, self.device, past)
            options["attention_mask"] = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.device)  # of four dimensions: none is made
        with self._autocasting(), self._checkpointing() if torch.is_grad_enabled() else contextlib.nullcontext():
            output = body(input_ids=ids, position_ids=positions, use_cache=False, **options)
        states: Tensor = output.last_hidden_state if self.head is not None else output.logits
        return states[torch.from_numpy(rows.row).to(self.device), torch.from_numpy(rows.column).to(self.device)]

    def logprobs(
        self, rows: PackedRows, temperature: float = 1.0, past: attention.Past | None = None
    ) -> tuple[Float32[Tensor, " tokens"], Float32[Tensor, " tokens"], Float32[Tensor, " tokens"]]:
        """Compute log-probability, entropy and surprisal of each completion token, in nats.

        Parameters
        ----------
        rows : completions with their prompts.
        temperature : of the log-probabilities.
        past : keys and values of the tokens before those of ``rows``.

        Returns
        -------
        (tokens,) float32 each: the log-probability at ``temperature``; the full-vocabulary entropy and the surprisal, both at
        temperature 1. The first two are differentiable.
        """
        states = self._hidden_states(rows, past)
        targets = torch.from_numpy(rows.targets).to(self.device)
        weight = None
        if self.head is not None:
            states = states * self.head.scale if self.head.scale != 1.0 else states
            weight = self.head.weight
        return _LogProbs.apply(states, weight, targets, temperature, self.autocast)  # type: ignore[no-untyped-call]

    def pieces(self, rows: PackedRows, tokens: int, temperature: float = 1.0) -> Iterator[Piece]:
        """Compute ``logprobs`` for pieces of at most ``tokens`` tokens of a longer sequence, or for other rows at once.

        The gradient of each piece must be taken (``Piece.backward``) before the next piece is. Only the activations of one piece are then
        held, beside the keys and values of the sequence; the forward pass of all but the last is computed twice. Without gradient, it is
        computed once.

        Yields
        ------
        Pieces; the last of the sequence first if gradients are enabled.
        """
        length = rows.ids.shape[1]
        if rows.segments is None or len(rows.segments) > 1 or length <= tokens:
            yield Piece(rows, self.logprobs(rows, temperature))
            return
        cuts = [rows.piece(start, min(start + tokens, length)) for start in range(0, length, tokens)]
        past = attention.Past()
        if not torch.is_grad_enabled():
            for piece in cuts:
                yield Piece(piece, self.logprobs(piece, temperature, past))
                past.advance()
            return
        with torch.no_grad():
            for piece in cuts[:-1]:
                self._hidden_states(piece, past)
                past.advance()
        later: dict[Any, tuple[Tensor, Tensor]] = {}  # keys and values of the piece, with the gradients from later pieces
        for piece in reversed(cuts):
            past.recording = True
            values = self.logprobs(piece, temperature, past)
            past.recording = False  # layers may be computed again for their gradient
            current, past.current = past.current, {}
            pairs = [pair for module, leaves in later.items() for pair in zip(current[module], leaves, strict=True)]
            yield Piece(piece, values, [(part, leaf.grad) for part, leaf in pairs if leaf.grad is not None])
            later = past.retreat()

    def pack(self, batch: Batch, samples: Sequence[int], tokens: int, share: bool | None = None) -> list[PackedRows]:
        """Pack samples into micro-batches of at most ``tokens`` tokens that this model can compute; see ``batch.pack_rows``.

        Raises
        ------
        InputError
            If the rotary embedding depends on the length of one of the sequences: in a batch it would be that of the longest.
        """
        if self.rotary.kinds:
            for sample in samples:
                length = len(batch.prompts[batch.prompt_of[sample]]) + len(batch.completions[sample])
                if reason := self.rotary.refusal(length):
                    name = batch.names[sample] or f"sample {sample}"
                    raise InputError(f"{name}: {length} tokens, prompt and completion: {reason}; use shorter ones, or another model")
        return pack_rows(batch, samples, tokens, self.shares if share is None else share, self.window)

    def logprobs_of(self, batch: Batch, tokens: int, share: bool | None = None) -> Float32[Tensor, " tokens"]:
        """Compute the log-probabilities of all completion tokens of a batch under the current policy, without gradient; see ``measure``."""
        return self.measure(batch, tokens, share)[0]

    def measure(self, batch: Batch, tokens: int, share: bool | None = None) -> Float32[Tensor, "3 tokens"]:
        """Compute ``logprobs`` for all completion tokens of a batch, in the order of samples, without gradient.

        Parameters
        ----------
        batch : completions, and the temperature of the log-probabilities.
        tokens : maximum number of tokens of a micro-batch.
        share : whether completions of a prompt share a row; ``shares`` if None.

        Returns
        -------
        (3, tokens) float32: log-probabilities, entropies and surprisals, in nats.
        """
        if self.shared_by is not None:
            return self.shared_by.measure(self, batch, tokens, share)
        return self.measure_here(batch, tokens, share)

    def measure_here(self, batch: Batch, tokens: int, share: bool | None = None) -> Float32[Tensor, "3 tokens"]:
        """Compute what ``measure`` does in this process."""
        values = torch.empty(3, int(batch.lengths.sum()), device=self.device)
        offsets = completion_offsets(batch)
        with torch.no_grad():
            for rows in self.pack(batch, range(len(batch.completions)), tokens, share):
                for piece in self.pieces(rows, tokens, batch.temperature):
                    values[:, token_indices(piece.rows, offsets)] = torch.stack(piece.values)
        return values

    def _attends_alike(self) -> bool:
        """Switch the model to the attention of ``dynamics.train.attention`` if the results agree; otherwise restore the model.

        The check compares log-probabilities of completions that share a row, and probabilities after left-padded prompts, as in sampling.
        Float32 weights are compared in float32, whatever the compute dtype, so that rounding cannot hide an error; bfloat16 weights are
        compared with a tolerance of 0.1, which could hide a small error. Twelve tokens cannot show what depends on the length of a
        sequence; ``rotary`` says that.
        """
        size = min(len(self.tokenizer), self.model.get_output_embeddings().weight.shape[0])
        ids = (np.arange(1, 13) * 7) % size
        prompts, completions = [ids[:5], ids[3:5]], [ids[5:8], ids[6:11], ids[:1], ids[1:5], ids[2:5]]
        blank = [""] * len(completions)
        batch = Batch(prompts, completions, np.array([0, 0, 1, 1, 1]), np.ones(len(completions)), blank, blank, blank)
        tolerance = 1e-3 if self.master == "float32" or self.separate else 0.1
        implementation, autocast = str(self.model.config._attn_implementation), self.autocast
        self.autocast = None
        try:
            own = self.logprobs_of(batch, 1, False), self._next_token_probabilities(prompts)
            attention.use(self.model)
            shared = self.logprobs_of(batch, 1000, True), self._next_token_probabilities(prompts)
            if all((expected - actual).abs().max() <= tolerance for expected, actual in zip(own, shared, strict=True)):
                return True
        except (RuntimeError, TypeError, ValueError, AttributeError):  # the model needs another attention interface
            pass
        finally:
            self.autocast = autocast
        with contextlib.suppress(ValueError, AttributeError):
            self.model.set_attn_implementation(implementation)
        return False

    def _next_token_probabilities(self, prompts: Sequence[Int[np.ndarray, " _"]]) -> Tensor:
        """Next-token probabilities (prompts, vocabulary) after left-padded prompts."""
        ids, mask, positions = (torch.from_numpy(array).to(self.device) for array in pad_left(prompts))
        with torch.no_grad(), self._autocasting():
            output = self.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
        return torch.softmax(output.logits[:, -1].float(), -1)


def checkpointed_layers(model: Any) -> list[torch.nn.Module]:
    """List the layers that transformers would checkpoint; InputError if there are none."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise InputError(f"{type(model).__name__} has no layers to checkpoint; leave out --gradient-checkpointing")
    return layers


class _LogProbs(torch.autograd.Function):
    """Log-probability, entropy and surprisal from hidden states and an output head, or from logits if ``weight`` is None."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor | None, targets: Tensor, temperature: float, dtype: torch.dtype | None) -> Any:
        ctx.temperature, ctx.dtype = temperature, dtype
        chunks, slices = [], _chunks(states, weight)
        ctx.logits = None
        for chunk in slices:
            logits = _logits(states[chunk], weight, dtype)
            if len(slices) == 1:  # small enough to be kept
                ctx.logits = logits
            plain = from_logits(logits, targets=targets[chunk])  # at temperature 1
            scaled = plain if temperature == 1.0 else from_logits(logits, temperature, targets[chunk])
            assert scaled.surprisal is not None
            chunks.append((-scaled.surprisal, scaled.logsumexp, plain.entropy, plain.logsumexp, plain.surprisal))
        columns = (torch.cat(values).float() for values in zip(*chunks, strict=True))
        logp, logsumexp, entropy, entropy_logsumexp, surprisal = columns
        # an output as an attribute of ctx would be a cycle, which holds the graph until it is collected
        ctx.save_for_backward(states, weight, targets, logsumexp, entropy, entropy_logsumexp)
        ctx.mark_non_differentiable(surprisal)
        ctx.set_materialize_grads(False)
        return logp, entropy, surprisal

    @staticmethod
    def backward(ctx: Any, by_logp: Tensor | None, by_entropy: Tensor | None, _: Any) -> Any:
        states, weight, targets, logsumexp, entropy, entropy_logsumexp = ctx.saved_tensors
        by_states = torch.zeros_like(states)
        by_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        kept, ctx.logits = ctx.logits, None  # overwritten below
        for chunk in _chunks(states, weight):
            slope = logits_gradient(
                _logits(states[chunk], weight, ctx.dtype) if kept is None else kept,
                by_logp=None if by_logp is None else by_logp[chunk],
                targets=targets[chunk],
                logsumexp=logsumexp[chunk],
                temperature=ctx.temperature,
                by_entropy=None if by_entropy is None else by_entropy[chunk],
                entropy=entropy[chunk],
                entropy_logsumexp=entropy_logsumexp[chunk],
                in_place=weight is not None,  # without a head they are the model's own
            )
            if weight is None:
                by_states[chunk] = slope.to(states.dtype)
                continue
            narrow = slope.to(ctx.dtype or weight.dtype)
            by_states[chunk] = (narrow @ weight.to(narrow.dtype)).to(states.dtype)
            if by_weight is None:  # a frozen head
                continue
            if narrow.dtype == torch.float32:
                by_weight.addmm_(narrow.T, states[chunk])
            else:
                by_weight += (narrow.T @ states[chunk].to(narrow.dtype)).float()
        return by_states, None if by_weight is None else by_weight.to(weight.dtype), None, None, None


def _chunks(states: Tensor, weight: Tensor | None) -> list[slice]:
    vocabulary = states.shape[1] if weight is None else weight.shape[0]
    size = max(16, CHUNK_BYTES // (4 * vocabulary))
    return [slice(start, start + size) for start in range(0, len(states), size)] or [slice(0, 0)]


def _logits(states: Float[Tensor, "tokens hidden"], weight: Tensor | None, dtype: torch.dtype | None) -> Tensor:
    if weight is None:
        return states.float()
    narrow = dtype or weight.dtype
    return (states.to(narrow) @ weight.to(narrow).T).float()


def load(name: str, device: str | None, master: str, compute: str, gradient_checkpointing: bool = False) -> Policy:
    """Load a model into freshly allocated memory.

    Parameters
    ----------
    name : a folder or a Hub id, as ``built_in.find`` gives it.
    device : a torch device; chosen automatically if None.
    master : dtype of the master weights, ``float32`` or ``bfloat16``.
    compute : dtype of forward and backward passes, one of these or ``auto``.
    gradient_checkpointing : whether layers compute their activations again in the backward pass.
    """
    from dynamics.models import load

    model, tokenizer = load(name, device, "float32")
    model_device = next(model.parameters()).device
    if tokenizer is None:
        raise InputError(f"{name}: has no tokenizer; save it in the folder of the model")
    if model_device.type == "cpu":  # the backward pass of fused attention is slower there
        with contextlib.suppress(ValueError, AttributeError):
            model.set_attn_implementation("eager")
    for value in (*model.parameters(), *model.buffers()):  # the alignment of mapped memory can change the last bit of results
        value.data = value.data.clone()
    compute = compute_dtype(compute, model_device, getattr(model.config.get_text_config(), "hidden_size", 0))
    with contextlib.redirect_stderr(io.StringIO()):
        return Policy(model, tokenizer, master, compute, gradient_checkpointing)

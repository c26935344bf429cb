"""CheXbert: a report goes in, 14 class ids come out. The real weights and the embedded small ones run through here.

Architecture (stanfordmlgroup/CheXbert, `src/models/bert_labeler.py`): BERT, the hidden state of [CLS], dropout, 13
linear heads of four classes (blank, positive, negative, uncertain), then No Finding with two (blank, positive).

Deliberate choices:
1. Strict loading. Every key must be there and no other, but for `bert.embeddings.position_ids`, a buffer that some
   transformers versions save. A half-loaded labeler labels nonsense and nothing fails.
2. Weights only. A checkpoint is read without running any code it may hold.
3. fp32 always. Labels are the reward; a half-precision near-tie must not flip one. Folders may be stored in fp16.
4. Equal reports are labelled once, the rest in batches of similar length, so padding costs next to nothing.
5. A folder may hold a reader of attributes (attribute_reader.py) beside the weights. Labels never go through it.
"""

import json
import pickle
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, BertConfig, BertModel, BertTokenizer, PreTrainedTokenizerBase

from mrg_grpo.attributes import Attributes
from mrg_grpo.errors import UserError, first_line
from mrg_grpo.hub import quiet, require_there
from mrg_grpo.labelers.attribute_reader import (
    SIGNS,
    AttributeReader,
    decoded,
    load_reader,
    over_tokens,
    save_reader,
)
from mrg_grpo.labels import CONDITIONS

__all__ = ["CLASSES", "CONDITIONS", "CheXbert", "CheXbertNet"]

CLASSES = (4,) * 13 + (2,)
"""Classes per head, in the order of CONDITIONS."""

MAX_TOKENS = 512
USUAL_TOKENIZER = "bert-base-uncased"
"""Of a .pth, which brings none."""
TOLERATED = "bert.embeddings.position_ids"
FORMAT = "mrg_grpo.chexbert"
NUMPY_SCALARS: list[Any] = [np.dtype, np.dtypes.Float64DType, np.float64(0).__reduce__()[0]]
"""Training scripts save a loss or an F1 beside the weights as numpy numbers; these three types cannot run code."""


class CheXbertNet(nn.Module):
    """BERT and 14 linear heads on [CLS]; parameter names are those of chexbert.pth without `module.`."""

    def __init__(self, config: BertConfig, pooler: bool = False):
        """config sizes BERT; pooler adds BERT's pooler, which chexbert.pth holds and no head reads."""
        super().__init__()
        self.bert = BertModel(config, add_pooling_layer=pooler)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.linear_heads = nn.ModuleList(nn.Linear(config.hidden_size, classes) for classes in CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Token ids (B, T) and mask (B, T) -> 13 logits (B, 4), then one (B, 2)."""
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # (B, T, hidden)
        return self.heads(hidden)

    def heads(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """The last layer (B, T, hidden) -> 13 logits (B, 4), then one (B, 2)."""
        hidden = self.dropout(hidden[:, 0])  # (B, hidden)
        return tuple(head(hidden) for head in self.linear_heads)

    def states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids (B, T) and mask (B, T) -> the embeddings and the last layer of each token (B, T, 2 hidden)."""
        layers = self.bert(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True).hidden_states
        return torch.cat([layers[0], layers[-1]], dim=-1)


class CheXbert:
    """A labeler: reports in, class ids out. Make one with `CheXbert.load`."""

    def __init__(
        self,
        net: CheXbertNet,
        tokenizer: PreTrainedTokenizerBase,
        device: str | torch.device = "cpu",
        reader: AttributeReader | None = None,
    ):
        self.device = torch.device(device)
        self.net = net.float().eval().requires_grad_(False).to(self.device)
        self.reader = reader and reader.float().eval().requires_grad_(False).to(self.device)
        self.tokenizer = tokenizer
        # tokens of one batch, padding included: bounded memory on a GPU, and a batch that stays in cache on a CPU
        self.batch_tokens = 1024 if self.device.type == "cpu" else 32768

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | torch.device = "cpu",
        tokenizer: str | Path | None = None,
        config: BertConfig | None = None,
    ) -> "CheXbert":
        """Read a chexbert.pth, or a folder written by `save`.

        tokenizer: folder or hub id; default the folder itself, or bert-base-uncased for a .pth. config sizes the BERT
        of a .pth, default bert-base-uncased's. Raises UserError where anything is missing, broken or of another model.
        """
        path = Path(path)
        if tokenizer:
            require_there(str(tokenizer), "labeler tokenizer")  # before weights of half a gigabyte are read
        if path.is_dir():
            net = _net_from_folder(path)
            reader = load_reader(path, 2 * net.bert.config.hidden_size)
            return cls(net, _load_tokenizer(tokenizer or path, net.bert.config.vocab_size), device, reader)
        if not path.is_file():
            raise UserError(
                f"no CheXbert checkpoint at {path}; [labeler] path takes a chexbert.pth or a folder of ours"
            )
        if not tokenizer:
            require_there(USUAL_TOKENIZER, "labeler tokenizer")
        net = _net_from_checkpoint(path, config or BertConfig())
        return cls(net, _load_tokenizer(tokenizer or USUAL_TOKENIZER, net.bert.config.vocab_size), device)

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write config.json, model.safetensors (stored as dtype), the tokenizer, and a reader of attributes if there is
        one. The pooler is left out."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            name: tensor.to(dtype).cpu().contiguous()
            for name, tensor in self.net.state_dict().items()
            if not name.startswith("bert.pooler.") and name != TOLERATED
        }
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        bert = self.net.bert.config.to_diff_dict()
        bert.pop("dtype", None)
        (folder / "config.json").write_text(
            json.dumps({"format": FORMAT, "bert": bert}, indent=2, sort_keys=True) + "\n"
        )
        shutil.copymode(
            folder / "config.json", folder / "model.safetensors"
        )  # safetensors keeps it from everybody else
        self.tokenizer.save_pretrained(str(folder))
        if self.reader is not None:
            save_reader(self.reader, folder, dtype)

    def label(self, reports: list[str]) -> Tensor:
        """B reports -> class ids (B, 14) on the labeler's device: 0 blank, 1 positive, 2 negative, 3 uncertain."""
        return torch.stack([logits.argmax(dim=-1) for logits in self.logits(reports)], dim=-1)

    def attributes(self, reports: list[str]) -> Attributes:
        """B reports -> their sides (B, 13), sizes (B, 13) and malpositions (B,) on the labeler's device, none where the
        condition is neither stated nor doubted. Raises UserError where the labeler has no reader of attributes."""
        return self.labels_and_attributes(reports)[1]

    def labels_and_attributes(self, reports: list[str]) -> tuple[Tensor, Attributes]:
        """B reports -> class ids (B, 14), those of `label`, and attributes, in one pass."""
        if self.reader is None:
            raise UserError("this labeler has no attributes (side, size): use the embedded one, which reads them")
        *heads, said = self._by_batch(reports, self._forward_with_attributes, (*CLASSES, SIGNS))
        labels = torch.stack([logits.argmax(dim=-1) for logits in heads], dim=-1)  # (B, 14)
        return labels, decoded(said).where_claimed(labels)

    def cuts(self, reports: list[str]) -> list[bool]:
        """Of each of B reports whether it is longer than is read: MAX_TOKENS, of which two mark its ends."""
        texts = [clean(report) for report in reports]
        long = list(dict.fromkeys(text for text in texts if len(text) > MAX_TOKENS - 2))  # a token is a letter at least
        ids = self.tokenizer(long, add_special_tokens=False, verbose=False)["input_ids"] if long else []
        cut = {text for text, row in zip(long, ids) if len(row) > MAX_TOKENS - 2}
        return [text in cut for text in texts]

    def logits(self, reports: list[str]) -> tuple[Tensor, ...]:
        """B reports -> 13 logits (B, 4), then one (B, 2), on the labeler's device."""
        return self._by_batch(reports, self.net, CLASSES)

    @torch.no_grad()
    def _by_batch(
        self, reports: list[str], forward: Callable[[Tensor, Tensor], tuple[Tensor, ...]], widths: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """B reports -> what `forward` makes of token ids and mask, a tensor (B, width) for each of its outputs."""
        texts = [clean(report) for report in reports]
        order = {text: row for row, text in enumerate(dict.fromkeys(texts))}  # equal reports share a row
        if not order:
            return tuple(torch.zeros(0, width, device=self.device) for width in widths)
        ids = self.tokenizer(list(order), truncation=True, max_length=MAX_TOKENS)["input_ids"]
        by_length = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        batches = _batches([len(ids[row]) for row in by_length], self.batch_tokens)
        # into tensors that are there before: small ones that stay alive between the large ones of a batch keep the heap
        # from shrinking
        outputs = [torch.empty(len(ids), width, device=self.device) for width in widths]
        for start, stop in batches:
            padded, mask = self._padded([ids[row] for row in by_length[start:stop]])
            with without_onednn():
                parts = forward(padded, mask)
            for output, part in zip(outputs, parts):
                output[start:stop] = part
        back = torch.empty(len(ids), dtype=torch.long)
        back[by_length] = torch.arange(len(ids))  # row of the sorted batch where each text went
        rows = back[[order[text] for text in texts]].to(self.device)  # (B,)
        return tuple(output[rows] for output in outputs)

    def _forward_with_attributes(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Token ids (B, T) and mask (B, T) -> logits per head, then the signs of attributes (B, 67)."""
        assert self.reader is not None
        states = self.net.states(ids, mask)  # (B, T, 2 hidden)
        last = states[..., states.shape[-1] // 2 :]
        return *self.net.heads(last), over_tokens(self.reader(states, mask), mask)

    def _padded(self, ids: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Token ids of one batch, any lengths -> ids (B, T) and mask (B, T) on the labeler's device."""
        longest = max(map(len, ids))
        lengths = torch.tensor([len(row) for row in ids])
        padded = torch.tensor([row + [self.tokenizer.pad_token_id] * (longest - len(row)) for row in ids])
        mask = (torch.arange(longest) < lengths[:, None]).long()
        return padded.to(self.device), mask.to(self.device)


@contextmanager
def without_onednn() -> Iterator[None]:
    """Within: torch's own kernels on a CPU.

    oneDNN's GELU keeps 27 KB for every shape that it meets, and batches of reports have ever new ones. (torch's own
    `mkldnn.flags` sets TF32 too, and warns of it.)
    """
    onednn: Any = torch.backends.mkldnn
    before, onednn.enabled = onednn.enabled, False
    try:
        yield
    finally:
        onednn.enabled = before


def clean(report: str) -> str:
    """CheXbert's own preparation: strip, newlines and runs of white space become one space."""
    if not isinstance(report, str):
        raise UserError(f"a report to label is {report!r}, of type {type(report).__name__}; give text, '' where empty")
    return " ".join(report.split())


def _batches(lengths: list[int], budget: int) -> list[tuple[int, int]]:
    """Ascending lengths -> (start, stop) slices with rows x longest within budget, one row at least.

    A slice also ends where its longest row would exceed its shortest by half and 8 tokens, which bounds the padding.
    """
    slices, start = [], 0
    for row, length in enumerate(lengths):
        if row > start and ((row + 1 - start) * length > budget or length > 1.5 * lengths[start] + 8):
            slices.append((start, row))
            start = row
    return [*slices, (start, len(lengths))]


def _net_from_checkpoint(path: Path, config: BertConfig) -> CheXbertNet:
    """chexbert.pth -> net. Raises UserError for a broken file or another model's weights."""
    try:
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is not a plain weights file ({first_line(error)[:160]}); it was not run. Get chexbert.pth again"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        raise UserError(
            f"{path} cannot be read as a torch file ({first_line(error)[:160]}); it may be cut short: get chexbert.pth "
            "again"
        ) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model_state_dict"), dict):
        raise UserError(
            f"{path} holds no `model_state_dict`, which chexbert.pth has; give [labeler] path a chexbert.pth"
        )
    state = {str(key).removeprefix("module."): tensor for key, tensor in checkpoint["model_state_dict"].items()}
    return _fill(CheXbertNet(config, pooler=True), state, path)


def _net_from_folder(folder: Path) -> CheXbertNet:
    """A folder written by `save` -> net. Raises UserError for missing files or another model's weights."""
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise UserError(f"labeler folder {folder} has no {name}; give a chexbert.pth or a folder written by save")
    try:
        config = json.loads((folder / "config.json").read_text())
        if not isinstance(config, dict) or config.get("format") != FORMAT:
            raise UserError(f"{folder / 'config.json'} is not of a CheXbert folder (no format {FORMAT!r} in it)")
        bert = BertConfig(**config["bert"])
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / 'config.json'} cannot be read ({first_line(error)[:160]}); save the labeler again"
        ) from error
    weights = folder / "model.safetensors"
    try:
        state = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{weights} cannot be read ({first_line(error)[:160]}); it may be cut short: save it again"
        ) from error
    return _fill(CheXbertNet(bert), state, weights)


def _fill(net: CheXbertNet, state: dict[str, Any], path: Path) -> CheXbertNet:
    """Load state into net, every key but position_ids. Raises UserError that names what does not fit."""
    own = net.state_dict()
    tolerated = {TOLERATED}
    missing = [key for key in own if key not in state and key not in tolerated]
    unexpected = [key for key in state if key not in own and key not in tolerated]
    if missing or unexpected:
        problems = [
            f"{len(keys)} {word} ({', '.join(keys[:2])}{', ...' if len(keys) > 2 else ''})"
            for word, keys in (("missing", missing), ("unexpected", unexpected))
            if keys
        ]
        raise UserError(f"{path} holds another model, not CheXbert: keys {' and '.join(problems)}")
    for key, tensor in own.items():
        if key in state and (not isinstance(state[key], Tensor) or state[key].shape != tensor.shape):
            found = (
                tuple(getattr(state[key], "shape", ())) if isinstance(state[key], Tensor) else type(state[key]).__name__
            )
            raise UserError(f"{path} holds a CheXbert of another size: {key} is {found}, not {tuple(tensor.shape)}")
    net.load_state_dict({key: state.get(key, tensor) for key, tensor in own.items()})  # copies into fp32 parameters
    return net


def _load_tokenizer(source: str | Path, vocabulary: int) -> PreTrainedTokenizerBase:
    """Tokenizer from a folder or a hub id. Raises UserError where it is not there or does not fit the weights."""
    bare = Path(source, "vocab.txt").is_file() and not Path(source, "tokenizer_config.json").is_file()
    try:
        kind: Any = BertTokenizer if bare else AutoTokenizer  # a lone vocab.txt does not say what it is of
        with quiet():
            tokenizer = kind.from_pretrained(str(source), trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise UserError(
            f"no tokenizer at {str(source)!r} ({first_line(error)[:160]}); set [labeler] tokenizer to a folder with "
            "bert-base-uncased's tokenizer files or to a hub id that can be reached"
        ) from error
    if len(tokenizer) > vocabulary:
        raise UserError(
            f"tokenizer {str(source)!r} has {len(tokenizer)} tokens, the labeler {vocabulary}: they do not fit"
        )
    return tokenizer

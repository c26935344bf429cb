"""The reader of attributes: the labeler's token states go in, and what each token says of side and size comes out.

Each token has 67 logits: for each of the 13 conditions whether it says "left", "right", "small or mild", "moderate" or
"large or severe" of it, and whether it says that a device is badly or well placed. What a report says is the largest
logit over its tokens. So the words that carry an attribute can be shown, and statements join as attributes do: a
"left" here and a "right" there are both sides, and of two sizes the larger counts.

Deliberate choices: two layers of their own over the trunk's word embeddings and its last layer, as the last layer alone
has forgotten sides, which no label needs. Attention knows how far apart two tokens are, up to `reach`: an adjective
belongs to the noun beside it. It is written out, as torch's fused one is slow backwards on a CPU. The trunk is read and
never changed, so the 14 labels stay what they are.

Shapes: B reports, T tokens, W width, H heads, 67 signs.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mrg_grpo.attributes import LEFT, RIGHT, Attributes
from mrg_grpo.errors import UserError, first_line
from mrg_grpo.labels import NEGATIVE, POSITIVE

FILE = "attributes.safetensors"
"""Beside the labeler's weights."""
SIGNS = 13 * 5 + 2
"""Left, right, then three sizes, of each condition; then badly and well placed."""


@dataclass(frozen=True)
class ReaderSizes:
    """What the reader is made of."""

    inputs: int = 384
    """Twice the trunk's width."""
    width: int = 192
    heads: int = 6
    layers: int = 2
    inner: int = 384
    reach: int = 16
    """Distances between two tokens beyond it count as this one."""


class Layer(nn.Module):
    """Attention with a learned bias for each distance, then two linear maps; both add to what comes in."""

    def __init__(self, sizes: ReaderSizes):
        super().__init__()
        self.heads, self.reach = sizes.heads, sizes.reach
        self.norm, self.inner_norm = nn.LayerNorm(sizes.width), nn.LayerNorm(sizes.width)
        self.qkv, self.out = nn.Linear(sizes.width, 3 * sizes.width), nn.Linear(sizes.width, sizes.width)
        self.distance = nn.Parameter(torch.zeros(sizes.heads, 2 * sizes.reach + 1))
        self.up, self.down = nn.Linear(sizes.width, sizes.inner), nn.Linear(sizes.inner, sizes.width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """States (B, T, W) and mask (B, T) bool -> states (B, T, W)."""
        places = torch.arange(x.shape[1], device=x.device)
        apart = (places[None] - places[:, None]).clamp(-self.reach, self.reach) + self.reach  # (T, T)
        bias = self.distance[:, apart].masked_fill(~mask[:, None, None], -1e4)  # (B, H, T, T)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1))
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias).softmax(-1)  # (B, H, T, T)
        seen = weights.to(v.dtype) @ v  # (B, H, T, W / H)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.inner_norm(x))))


class AttributeReader(nn.Module):
    """Token states of the trunk -> what each token says."""

    def __init__(self, sizes: ReaderSizes):
        super().__init__()
        self.sizes = sizes
        self.input = nn.Linear(sizes.inputs, sizes.width)
        self.layers = nn.ModuleList(Layer(sizes) for _ in range(sizes.layers))
        self.norm, self.head = nn.LayerNorm(sizes.width), nn.Linear(sizes.width, SIGNS)
        nn.init.constant_(self.head.bias, -5.0)  # few tokens say anything

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """States (B, T, inputs) and mask (B, T) -> logits (B, T, 67)."""
        x = self.input(states)
        for layer in self.layers:
            x = layer(x, mask.bool())
        return self.head(self.norm(x))


def over_tokens(logits: Tensor, mask: Tensor) -> Tensor:
    """Logits (B, T, 67) and mask (B, T) -> of each report (B, 67)."""
    return logits.masked_fill(~mask.bool()[..., None], -torch.inf).amax(dim=1)


def decoded(logits: Tensor) -> Attributes:
    """Logits of reports (B, 67) -> their attributes, of conditions that are denied too."""
    said = logits > 0
    sides = said[:, :26].unflatten(-1, (13, 2)) * torch.tensor([LEFT, RIGHT], device=logits.device)  # (B, 13, 2)
    sizes = said[:, 26:65].unflatten(-1, (13, 3)) * torch.arange(1, 4, device=logits.device)  # (B, 13, 3)
    well = said[:, 66] * NEGATIVE
    return Attributes(sides.sum(-1), sizes.amax(-1), torch.where(said[:, 65], POSITIVE, well))


def signs(attributes: Attributes) -> Tensor:
    """Attributes of B reports -> the signs (B, 67) that decode to them."""
    sides = (attributes.side[..., None] & torch.tensor([LEFT, RIGHT])) > 0  # (B, 13, 2)
    sizes = attributes.size[..., None] == torch.arange(1, 4)  # (B, 13, 3)
    placed = attributes.malposition[:, None] == torch.tensor([POSITIVE, NEGATIVE])  # (B, 2)
    return torch.cat([sides.flatten(1), sizes.flatten(1), placed], dim=1)


def save_reader(reader: AttributeReader, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
    """Write the reader beside the labeler's weights, with the rights that a new file has here."""
    state = {name: tensor.to(dtype).cpu().contiguous() for name, tensor in reader.state_dict().items()}
    sizes = {"sizes": json.dumps(asdict(reader.sizes), sort_keys=True)}
    (Path(folder) / FILE).write_bytes(save(state, metadata=sizes))


def load_reader(folder: str | Path, inputs: int) -> AttributeReader | None:
    """The reader of a labeler's folder, for token states of `inputs` numbers; None where the folder has none."""
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            sizes = ReaderSizes(**json.loads(file.metadata()["sizes"]))
            reader = AttributeReader(sizes)
            reader.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read as a reader of attributes ({first_line(error)[:160]}); get it again, or delete it: "
            "labels need none"
        ) from error
    if sizes.inputs != inputs:
        raise UserError(f"{path} reads states of {sizes.inputs} numbers, this labeler has {inputs}; delete it")
    return reader

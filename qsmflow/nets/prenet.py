"""PReNet, a progressive recurrent network on slices (Ren et al. 2019, 10.1109/CVPR.2019.00406)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: Of the LSTM: what is taken in, what is kept, what it is made of, what is let out.
GATES = ("admit", "forget", "candidate", "emit")


@dataclass(frozen=True)
class PReNetSettings:
    """Size of a :class:`PReNet`.

    Parameters
    ----------
    channels : int
        Of all features.
    recursions : int
        How often the network is applied, with the same weights.
    blocks : int
        Residual blocks.
    scale : float
        As in :class:`qsmflow.nets.unet.UNetSettings`.
    """

    channels: int = 32
    recursions: int = 6
    blocks: int = 5
    scale: float = 10.0


class PReNet(nn.Module):
    """Convolution and ReLU, convolutional LSTM, residual blocks, convolution; several times over.

    Each recursion sees the image and what the recursion before made of it, and the LSTM remembers.

    Parameters
    ----------
    settings : PReNetSettings

    Examples
    --------
    >>> network = PReNet(PReNetSettings())
    >>> sum(parameter.numel() for parameter in network.parameters())
    167233
    >>> image = torch.rand(2, 1, 12, 10)
    >>> torch.allclose(network(image), image)
    True
    """

    def __init__(self, settings: PReNetSettings):
        super().__init__()
        self.settings = settings
        width = settings.channels
        self.entry = nn.Sequential(_convolution(2, width), nn.ReLU(inplace=True))
        self.gates = nn.ModuleDict({name: _convolution(2 * width, width) for name in GATES})
        self.blocks = nn.ModuleList(
            nn.Sequential(
                _convolution(width, width),
                nn.ReLU(inplace=True),
                _convolution(width, width),
            )
            for _ in range(settings.blocks)
        )
        self.exit = _convolution(width, 1)
        # A fresh network changes nothing.
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(self.exit.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Slices (b, 1, h, w) to slices as large."""
        scaled = image * self.settings.scale
        current = scaled
        hidden = cell = None
        for _ in range(self.settings.recursions):
            features = self.entry(torch.cat([scaled, current], dim=1))  # (b, channels, h, w)
            if hidden is None:
                # In the precision of the convolutions, which all that follows would lose to a float32 state.
                hidden = cell = torch.zeros_like(features)
            seen = torch.cat([features, hidden], dim=1)  # (b, 2·channels, h, w)
            admit, forget, candidate, emit = (gate(seen) for gate in self.gates.values())
            cell = torch.sigmoid(forget) * cell + torch.sigmoid(admit) * torch.tanh(candidate)
            hidden = features = torch.sigmoid(emit) * torch.tanh(cell)
            for block in self.blocks:
                features = torch.relu(features + block(features))
            # What is added may be rounded to bfloat16; what it is added to may not.
            current = scaled + self.exit(features).to(image.dtype)
        return current / self.settings.scale


def _convolution(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel_size=3, padding=1)

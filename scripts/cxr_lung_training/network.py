"""The network: a small U-Net that works at half resolution."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (16, 32, 48, 64, 64)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        nn.InstanceNorm2d(outputs, affine=True),
        nn.ReLU(inplace=True),
    )


def _double(value: Tensor) -> Tensor:
    return functional.interpolate(value, scale_factor=2.0, mode="bilinear", align_corners=False)


class LungNet(nn.Module):
    """Image [N, 1, 256, 256] in 0..1 to logits [N, 3, 128, 128] (background, right lung, left lung).

    The first convolution halves the resolution and `probabilities` doubles it bilinearly at the end: lung outlines
    are smooth, so this costs little accuracy, and each layer has a quarter of the pixels to work on. Instance
    normalisation, because the contrast of radiographs differs from device to device and the statistics of the
    training set would not fit an unseen one.
    """

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.stem = _convolution(1, WIDTHS[0], stride=2)
        self.encoder = nn.ModuleList(
            nn.Sequential(
                _convolution(WIDTHS[max(level - 1, 0)], width, stride=1 if level == 0 else 2),
                _convolution(width, width),
            )
            for level, width in enumerate(WIDTHS)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.decoder = nn.ModuleList(
            nn.Sequential(_convolution(WIDTHS[level + 1] + width, width), _convolution(width, width))
            for level, width in enumerate(WIDTHS[:-1])
        )
        self.head = nn.Conv2d(WIDTHS[0], 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        value = self.stem(image)
        skips: list[Tensor] = []
        for block in self.encoder:
            value = block(value)
            skips.append(value)
        value = self.dropout(value)
        for level in range(len(WIDTHS) - 2, -1, -1):
            value = self.decoder[level](torch.cat([_double(value), skips[level]], dim=1))
        return cast(Tensor, self.head(value))

    def probabilities(self, image: Tensor) -> Tensor:
        """Return softmax probabilities [N, 3, 256, 256] of `image` [N, 1, 256, 256]."""
        return torch.softmax(_double(self(image)), dim=1)

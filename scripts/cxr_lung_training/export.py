"""From trained weights to `model.onnx`."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr_lung_training.dataset import SIZE
from cxr_lung_training.evaluation import Predictor
from cxr_lung_training.network import LungNet


class _Probabilities(nn.Module):
    def __init__(self, network: LungNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network.probabilities(image)


def export(network: LungNet, path: Path) -> None:
    """Write `path`: opset 17, `image` float32 [1, 1, 256, 256] to `lungs` float32 [1, 3, 256, 256]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        _Probabilities(network).eval(),
        (torch.zeros(1, 1, SIZE, SIZE),),
        str(path),
        input_names=["image"],
        output_names=["lungs"],
        opset_version=17,
        dynamo=False,
    )
    onnx.checker.check_model(onnx.load(path), full_check=True)


def onnx_predictor(path: Path) -> Predictor:
    """Return a predictor that runs `path` on the CPU, so that scores are those of the delivered file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def predict(image: NDArray[np.float32]) -> NDArray[np.float32]:
        (lungs,) = session.run(["lungs"], {"image": image[None, None]})
        return cast("NDArray[np.float32]", lungs[0])

    return predict

"""The training loop: resumable, and the same for a fold and for the final weights."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.nn import functional

from cxr_lung_training.augmentation import augment
from cxr_lung_training.dataset import ChestImage
from cxr_lung_training.network import LungNet


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, besides the images."""

    seed: int = 20
    steps: int = 2000
    batch: int = 8
    learning_rate: float = 3e-3
    weight_decay: float = 2e-2
    warmup_steps: int = 100
    average_decay: float = 0.995
    label_smoothing: float = 0.03


def train(images: Sequence[ChestImage], recipe: Recipe, checkpoint: Path) -> LungNet:
    """Train on `images` and return the averaged weights, ready for inference.

    The state is written to `checkpoint` every 100 steps; a run that was interrupted goes on from there with
    the same images and changes as if it had not been, because each step draws from its own seeded generator.
    """
    torch.manual_seed(recipe.seed)
    network, average = LungNet(), LungNet()
    average.load_state_dict(network.state_dict())
    optimiser = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    pictures = torch.from_numpy(np.stack([image.image for image in images])).unsqueeze(1)
    targets = torch.from_numpy(np.stack([image.target for image in images]))
    weights = _sampling_weights(images)
    started, losses = time.monotonic(), 0.0
    network.train()
    for step in range(first, recipe.steps):
        generator = Generator().manual_seed(recipe.seed * 1_000_003 + step)
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        chosen = torch.multinomial(weights, recipe.batch, replacement=True, generator=generator)
        picture, target = augment(pictures[chosen], targets[chosen], generator)
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(step, recipe)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network(picture)
        loss = segmentation_loss(logits.float(), target, recipe.label_smoothing)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimiser.step()
        _move_average(average, network, min(recipe.average_decay, (1 + step) / (10 + step)))
        losses += loss.item()
        if (step + 1) % 100 == 0:
            pace = (time.monotonic() - started) / (step + 1 - first)
            print(f"{checkpoint.stem}: step {step + 1}, loss {losses / 100:.4f}, {pace:.2f} s a step", flush=True)
            losses = 0.0
            _save(checkpoint, network, average, optimiser, step + 1)
    return average.eval()


def segmentation_loss(logits: Tensor, target: Tensor, smoothing: float) -> Tensor:
    """Return cross-entropy plus soft Dice loss of logits [N, 3, h, w] and target [N, 3, 2h, 2w], see `ChestImage`.

    The smoothing is for the cross-entropy only: the polygons are rough by a few pixels, so full certainty at an
    outline would be learnt from noise.
    """
    shares = functional.avg_pool2d(target, 2)
    lungs, known = shares[:, :2], shares[:, 2:]
    classes = torch.cat([1.0 - lungs.sum(dim=1, keepdim=True), lungs], dim=1)
    softened = classes * (1.0 - smoothing) + smoothing / 3.0
    entropy = -(softened * torch.log_softmax(logits, dim=1)).sum(dim=1, keepdim=True)
    probabilities = torch.softmax(logits, dim=1)[:, 1:]
    overlap = (probabilities * lungs * known).sum(dim=(2, 3))
    total = ((probabilities + lungs) * known).sum(dim=(2, 3))
    # The constant keeps a lung that augmentation moved out of view from dominating the loss.
    dice = ((2.0 * overlap + 10.0) / (total + 10.0)).mean()
    return (entropy * known).sum() / known.sum() + 1.0 - dice


def predict(network: LungNet, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities [3, 256, 256] for one preprocessed image [256, 256]."""
    with torch.inference_mode():
        probabilities = network.probabilities(torch.tensor(image)[None, None])
    return np.asarray(probabilities[0].numpy(), dtype=np.float32)


def _sampling_weights(images: Sequence[ChestImage]) -> Tensor:
    """Weigh images down by the square root of how many their patient has: follow-ups say little new."""
    counts = [sum(other.patient_id == image.patient_id for other in images) for image in images]
    return torch.tensor([1.0 / math.sqrt(count) for count in counts])


def _schedule(step: int, recipe: Recipe) -> float:
    warm = min(1.0, (step + 1) / recipe.warmup_steps)
    return warm * max(0.5 * (1.0 + math.cos(math.pi * step / recipe.steps)), 0.005)


def _move_average(average: LungNet, network: LungNet, decay: float) -> None:
    with torch.no_grad():
        for kept, new in zip(average.parameters(), network.parameters(), strict=True):
            kept.lerp_(new, 1.0 - decay)


def _save(path: Path, network: LungNet, average: LungNet, optimiser: torch.optim.Optimizer, step: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    state = {"network": network.state_dict(), "average": average.state_dict()}
    torch.save(state | {"optimiser": optimiser.state_dict(), "step": step}, partial)
    partial.replace(path)

"""Random but reproducible changes of a training batch.

Each function takes the batch `image` float32 [N, 1, H, W] in 0..1 and a seeded generator. With so few patients,
what the network must ignore has to be shown to it: position, size and shape of the thorax, exposure and
post-processing, collimation, opacities, cables, implants and burnt-in text.
"""

from __future__ import annotations

import math

import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Generator, Tensor
from torch.nn import functional


def augment(image: Tensor, target: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return the changed image [N, 1, H, W] in 0..1 and target [N, 3, H, W] (right, left, known) of a batch."""
    image, target = _mirror(image, target, generator)
    image, target = _warp(image, target, generator)
    image = _opacities(image, generator)
    image = _exposure(image, generator)
    image = _devices(image, generator)
    image = _collimate(image, generator)
    image = _blur(image, generator)
    return _renormalise(_noise(image, generator), generator), target


def _uniform(count: int, low: float, high: float, generator: Generator) -> Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low


def _chance(count: int, probability: float, generator: Generator) -> Tensor:
    """Return booleans [N, 1, 1, 1]."""
    return (torch.rand(count, generator=generator) < probability).view(-1, 1, 1, 1)


def _smooth_field(shape: tuple[int, int, int, int], cells: int, generator: Generator) -> Tensor:
    """Return smooth standard normal noise of `shape` [N, C, H, W] with about `cells` bumps a side."""
    bumps = torch.randn(shape[0], shape[1], cells, cells, generator=generator)
    # Bicubic only up to 64 x 64: the last step is as smooth bilinearly and much faster.
    rounded = functional.interpolate(bumps, size=(64, 64), mode="bicubic", align_corners=True)
    return functional.interpolate(rounded, size=shape[2:], mode="bilinear", align_corners=True)


def _mirror(image: Tensor, target: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    # The classes are sides of the image, so right and left swap with the mirror.
    mirrored = _chance(len(image), 0.3, generator)
    swapped = target[:, [1, 0, 2]].flip(3)
    return torch.where(mirrored, image.flip(3), image), torch.where(mirrored, swapped, target)


def _warp(image: Tensor, target: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    count, _, rows, columns = image.shape
    angle = (torch.randn(count, generator=generator) * 8.0).clamp(-25.0, 25.0) * (math.pi / 180.0)
    zoom = torch.exp(_uniform(count, math.log(0.75), math.log(1.4), generator))
    aspect = torch.exp(_uniform(count, -0.16, 0.16, generator))
    shear = _uniform(count, -0.12, 0.12, generator)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    # The matrix maps output to input coordinates: a zoom above 1 shows more than the image, with a border.
    wide, high = zoom * aspect, zoom / aspect
    matrix = torch.stack(
        [
            torch.stack([wide * cosine, high * (shear * cosine - sine), _uniform(count, -0.2, 0.2, generator)], 1),
            torch.stack([wide * sine, high * (shear * sine + cosine), _uniform(count, -0.2, 0.2, generator)], 1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(matrix, [count, 1, rows, columns], align_corners=False)
    coarse = _smooth_field((count, 2, rows, columns), 5, generator) * _uniform(count, 0.0, 0.045, generator).view(
        -1, 1, 1, 1
    )
    fine = _smooth_field((count, 2, rows, columns), 10, generator) * _uniform(count, 0.0, 0.015, generator).view(
        -1, 1, 1, 1
    )
    grid = grid + (coarse + fine).permute(0, 2, 3, 1)
    warped = functional.grid_sample(image, grid, padding_mode="border", align_corners=False)
    fill = _uniform(count, 0.0, 1.0, generator).square().view(-1, 1, 1, 1)
    fill = torch.where(_chance(count, 0.5, generator), torch.zeros_like(fill), fill)
    outside = (grid.abs().amax(dim=3) > 1.0).unsqueeze(1) & _chance(count, 0.7, generator)
    warped = torch.where(outside, fill, warped)
    lungs = functional.grid_sample(target[:, :2], grid, padding_mode="zeros", align_corners=False)
    known = functional.grid_sample(target[:, 2:], grid, padding_mode="border", align_corners=False)
    return warped, torch.cat([lungs, known], dim=1)


def _opacities(image: Tensor, generator: Generator) -> Tensor:
    """Add bright clouds, as consolidation and effusion do, or dark ones."""
    count, _, rows, columns = image.shape
    for cells, probability in ((4, 0.35), (8, 0.35)):
        cloud = _smooth_field((count, 1, rows, columns), cells, generator).sub(0.4).clamp(0.0, 1.2)
        strength = _uniform(count, -0.1, 0.45, generator).view(-1, 1, 1, 1)
        image = image + cloud * strength * _chance(count, probability, generator)
    return image.clamp(0.0, 1.0)


def _exposure(image: Tensor, generator: Generator) -> Tensor:
    """Change tone curve, contrast and evenness of the exposure."""
    count, _, rows, columns = image.shape
    equalised = _equalise(image)
    share = _uniform(count, 0.2, 1.0, generator).view(-1, 1, 1, 1) * _chance(count, 0.2, generator)
    image = image * (1.0 - share) + equalised * share
    field = _smooth_field((count, 1, rows, columns), 3, generator) * 0.15 * _chance(count, 0.4, generator)
    image = (image + field * image).clamp(0.0, 1.0)
    gamma = torch.exp(torch.randn(count, generator=generator) * 0.4).clamp(0.35, 2.8).view(-1, 1, 1, 1)
    image = image.clamp(min=1e-4).pow(gamma)
    # A random rising curve through eight knots stands for the unknown processing of another vendor.
    steps = torch.rand(count, 8, generator=generator) + 0.15
    knots = torch.cat([torch.zeros(count, 1), steps.cumsum(1) / steps.sum(1, keepdim=True)], dim=1)
    position = (image.flatten(1) * 8.0).clamp(0.0, 7.999)
    index = position.long()
    low, high = knots.gather(1, index), knots.gather(1, index + 1)
    curved = (low + (high - low) * (position - index)).view_as(image)
    image = torch.where(_chance(count, 0.5, generator), curved, image)
    contrast = _uniform(count, 0.6, 1.4, generator).view(-1, 1, 1, 1)
    brightness = _uniform(count, -0.15, 0.15, generator).view(-1, 1, 1, 1)
    changed = ((image - 0.5) * contrast + 0.5 + brightness).clamp(0.0, 1.0)
    return torch.where(_chance(count, 0.5, generator), changed, image)


def _equalise(image: Tensor) -> Tensor:
    """Equalise the histogram of each image with 64 bins."""
    flat = (image.flatten(1) * 63.0).clamp(0.0, 62.999)
    index = flat.long()
    histogram = torch.zeros(len(image), 64).scatter_add_(1, index, torch.ones_like(flat))
    curve = torch.cat([torch.zeros(len(image), 1), histogram.cumsum(1) / flat.shape[1]], dim=1)
    low, high = curve.gather(1, index), curve.gather(1, index + 1)
    return (low + (high - low) * (flat - index)).view_as(image)


def _devices(image: Tensor, generator: Generator) -> Tensor:
    """Draw cables, electrodes, implants, side marks and blank boxes over 60 % of the images."""
    drawn = [_draw_devices(one, generator) if _roll(generator) < 0.6 else one for one in image[:, 0]]
    return torch.stack(drawn).unsqueeze(1)


def _roll(generator: Generator) -> float:
    return float(torch.rand(1, generator=generator))


def _draw_devices(pixels: Tensor, generator: Generator) -> Tensor:
    rows, columns = pixels.shape
    layer, cover = Image.new("L", (columns, rows)), Image.new("L", (columns, rows))
    pens = ImageDraw.Draw(layer), ImageDraw.Draw(cover)
    for _ in range(int(_roll(generator) * 5)):
        start, bend, end = (torch.rand(3, 2, generator=generator) * rows * 1.2 - rows * 0.1).tolist()
        moments = [step / 12 for step in range(13)]
        line = [
            tuple((1 - t) ** 2 * start[axis] + 2 * t * (1 - t) * bend[axis] + t**2 * end[axis] for axis in (0, 1))
            for t in moments
        ]
        grey, alpha, width = int(140 + 115 * _roll(generator)), int(90 + 160 * _roll(generator)), 1
        width += int(_roll(generator) * 2.5)
        pens[0].line(line, fill=grey, width=width)
        pens[1].line(line, fill=alpha, width=width)
    for _ in range(int(_roll(generator) * 4)):
        left, top = _roll(generator) * columns, _roll(generator) * rows
        size = 3 + 22 * _roll(generator) ** 2
        box = (left, top, left + size * (0.6 + _roll(generator)), top + size * (0.6 + _roll(generator)))
        grey, alpha = int(255 * _roll(generator) ** 0.4), int(120 + 135 * _roll(generator))
        for pen, value in zip(pens, (grey, alpha), strict=True):
            (pen.ellipse if size < 12 else pen.rounded_rectangle)(box, fill=value)
    if _roll(generator) < 0.3:
        place = (_roll(generator) * columns * 0.9, _roll(generator) * rows * 0.9)
        word = ("R", "L", "AP", "PA", "SUPINE", "12:45")[int(_roll(generator) * 6)]
        for pen in pens:
            pen.text(place, word, fill=255, font_size=8 + 12 * _roll(generator))
    if _roll(generator) < 0.3:
        left, top = _roll(generator) * columns, _roll(generator) * rows
        wide, high = (side * (0.08 + 0.2 * _roll(generator)) for side in (columns, rows))
        grey = int(255 * _roll(generator))
        for pen, value in zip(pens, (grey, 255), strict=True):
            pen.rectangle((left, top, left + wide, top + high), fill=value)
    soft = ImageFilter.GaussianBlur(0.6)
    grey_layer, alpha_layer = (
        torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(rows, columns) / 255.0
        for picture in (layer, cover.filter(soft))
    )
    return pixels * (1.0 - alpha_layer) + grey_layer * alpha_layer


def _collimate(image: Tensor, generator: Generator) -> Tensor:
    """Blacken what lies outside a slightly turned frame; the lungs go on below it, as annotators draw them."""
    count, _, rows, columns = image.shape
    vertical, horizontal = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
    angle = (torch.randn(count, generator=generator) * 0.05).view(-1, 1, 1, 1)
    across = horizontal * torch.cos(angle) + vertical * torch.sin(angle)
    along = vertical * torch.cos(angle) - horizontal * torch.sin(angle)
    edges = _uniform(4 * count, 0.8, 1.15, generator).view(4, -1, 1, 1, 1)
    outside = (across < -edges[0]) | (across > edges[1]) | (along < -edges[2]) | (along > edges[3])
    grey = (_uniform(count, 0.0, 0.4, generator) * (_uniform(count, 0.0, 1.0, generator) < 0.4)).view(-1, 1, 1, 1)
    return torch.where(outside & _chance(count, 0.3, generator), grey, image)


def _blur(image: Tensor, generator: Generator) -> Tensor:
    sigma = 0.4 + 1.4 * _roll(generator)
    offsets = torch.arange(-5, 6, dtype=torch.float32)
    weights = torch.softmax(-0.5 * (offsets / sigma) ** 2, dim=0).tolist()
    rows, columns = image.shape[2:]
    # Sums of shifted copies: torch's convolution of one channel is three times slower on a CPU.
    padded = functional.pad(image, (5, 5, 5, 5), mode="reflect")
    across = sum((padded[..., k : k + columns] * w for k, w in enumerate(weights)), torch.zeros(()))
    soft = sum((across[:, :, k : k + rows] * w for k, w in enumerate(weights)), torch.zeros(()))
    # Beyond the blurred image lies the sharpened one: some vendors enhance edges strongly.
    amount = torch.where(
        _chance(len(image), 0.6, generator),
        torch.ones(len(image), 1, 1, 1),
        -_uniform(len(image), 0.0, 2.0, generator).view(-1, 1, 1, 1),
    )
    changed = (image + (soft - image) * amount).clamp(0.0, 1.0)
    return torch.where(_chance(len(image), 0.4, generator), changed, image)


def _noise(image: Tensor, generator: Generator) -> Tensor:
    strength = _uniform(len(image), 0.0, 0.08, generator).view(-1, 1, 1, 1) * _chance(len(image), 0.5, generator)
    return (image + torch.randn(image.shape, generator=generator) * strength).clamp(0.0, 1.0)


def _renormalise(image: Tensor, generator: Generator) -> Tensor:
    """Stretch the 1 % and 99 % quantiles to 0 and 1 again, as `dataset.preprocess` would do."""
    sample = image.flatten(1)[:, ::16]
    low = torch.quantile(sample, 0.01, dim=1).view(-1, 1, 1, 1)
    high = torch.quantile(sample, 0.99, dim=1).view(-1, 1, 1, 1)
    stretched = ((image - low) / (high - low).clamp(min=0.05)).clamp(0.0, 1.0)
    return torch.where(_chance(len(image), 0.8, generator), stretched, image)

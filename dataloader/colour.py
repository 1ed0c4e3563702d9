"""Change the colours of a training batch, on the device it lies on, between geometry and the network.

Each sample draws for itself: first at most one degradation (Gaussian blur, median blur or noise), then
hue, saturation, brightness and contrast in a random order. The list and its default ranges are those the
HoVer-Net authors trained with (Graham et al. 2019), except that here contrast really changes. The arithmetic
runs in float32 and is rounded and clipped to 0..255 once, at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb
from typing import NamedTuple

import cv2
import torch
from torch import Tensor

from dataloader.stain.arrays import check_batch

_LUMA = (0.299, 0.587, 0.114)  # weights of R, G, B in grey, ITU-R BT.601
# a full circle is 180 hue steps, or 6 sextants between pure and mixed colours
_SEXTANTS_PER_HUE_STEP = 6 / 180
_SMALLEST_CHROMA = 1e-6  # grey levels; only keeps the hue of a grey pixel finite
_GAUSSIAN, _MEDIAN, _NOISE = range(3)  # noise is the last, for it can be left out


class _Draws(NamedTuple):
    """What happens to N samples; the last axis of every tensor is theirs, on the CPU.

    Attributes:
        kind: (N,) int64 degradation, -1 for none.
        sizes: (2, N) int64 heights and widths of the blurs' windows, the first also the median's.
        spread: (N,) float32 share of the greatest noise.
        is_per_channel: (N,) bool, whether each channel has a noise of its own.
        tone: (7, N) float32 in 0..1, what the four changes of colour and their order follow from.
    """

    kind: Tensor
    sizes: Tensor
    spread: Tensor
    is_per_channel: Tensor
    tone: Tensor


@dataclass(frozen=True)
class ColourAugment:
    """Augment the colours of a batch; each sample has its own draw.

    Attributes:
        hue: largest shift either way, in steps of OpenCV's 180-step circle (2 degrees each), 0..90; 0 is off.
        saturation: largest change of the colour's share against its grey image, 0..1; 0 is off.
        brightness: largest shift either way, in grey levels, 0..255; 0 is off.
        contrast: (least, greatest) factor about each channel's mean over the sample; (1, 1) is off.
        degrade: probability, 0..1, that a sample is blurred, median-filtered or made noisy, each as likely;
            0 is off.
        blur_kernels: odd window sizes in pixels, drawn for both blurs; size 1 leaves the sample as it is.
        noise: greatest standard deviation of the noise in grey levels, drawn from 0..noise; 0 leaves the two
            blurs as the only degradations.
    """

    hue: float = 8.0
    saturation: float = 0.2
    brightness: float = 26.0
    contrast: Sequence[float] = (0.75, 1.25)
    degrade: float = 1.0
    blur_kernels: Sequence[int] = (1, 3, 5)
    noise: float = 0.05 * 255

    def __post_init__(self) -> None:
        for name, greatest in (
            ("hue", 90),
            ("saturation", 1),
            ("brightness", 255),
            ("degrade", 1),
            ("noise", 255),
        ):
            value = getattr(self, name)
            if not 0 <= value <= greatest:
                raise ValueError(f"{name}={value} lies outside 0..{greatest}; set 0 to switch it off")
        if len(self.contrast) != 2 or not 0 <= self.contrast[0] <= self.contrast[1]:
            raise ValueError(
                f"contrast={self.contrast} must be (least, greatest) factors from 0; set (1, 1) for none"
            )
        if not self.blur_kernels or any(size < 1 or size % 2 == 0 for size in self.blur_kernels):
            raise ValueError(
                f"blur_kernels={self.blur_kernels} must be odd sizes from 1; set (1,) for no blur"
            )

    def __call__(self, images: Tensor, generator: torch.Generator, rows: range | None = None) -> Tensor:
        """Return the batch in new colours; the input is left as it was.

        On a GPU the host waits once, for the few numbers that say which sample is degraded how.

        Args:
            images: (N, 3, H, W) uint8 RGB. An empty batch gives an empty batch.
            generator: the one source of randomness, on the CPU, so that no draw waits for the images' device.
            rows: the places of the images in a larger batch, whose size is the range's stop: each gets what it would
                get there. None for a batch that is whole.

        Returns:
            (N, 3, H, W) uint8 RGB in the memory format of ``images``.

        Raises:
            ValueError: if ``images`` is not uint8 RGB, or ``generator`` does not lie on the CPU.
        """
        check_batch(images, generator)
        rows = rows or range(len(images))
        drawn, noise_seed = self._draw(rows.stop, generator)
        noise = _draw_noise(drawn.kind.tolist(), rows, images, noise_seed)
        coloured = torch.empty_like(images)
        step = 1 if _is_on_host(images) else max(len(images), 1)  # a CPU's cache holds one sample's floats
        for start in range(0, len(images), step):
            chunk = slice(start, start + step)
            mine = _Draws(*(values[..., rows.start :: rows.step][..., chunk] for values in drawn))
            pixels = images[chunk].to(torch.float32, memory_format=torch.contiguous_format)
            self._degrade(pixels, images[chunk], mine, noise)
            self._recolour(pixels, mine.tone.to(images.device, non_blocking=True))
            coloured[chunk] = pixels.round_().clamp_(0, 255).to(torch.uint8)
        return coloured

    def _draw(self, num: int, generator: torch.Generator) -> tuple[_Draws, int]:
        """Return what happens to each of ``num`` samples, and the seed of their noise."""
        noise_seed = 0
        kind, sizes = torch.full((num,), -1), torch.ones((2, num), dtype=torch.int64)
        spread = is_per_channel = torch.zeros(num)
        if self.degrade:
            is_degraded, spread, is_per_channel = torch.rand((3, num), generator=generator)
            kind = torch.randint(_NOISE + 1 if self.noise else _NOISE, (num,), generator=generator)
            size_index = torch.randint(len(self.blur_kernels), (2, num), generator=generator)
            sizes = torch.tensor(self.blur_kernels)[size_index]
            kind[is_degraded >= self.degrade] = -1
            if (kind == _NOISE).any():
                noise_seed = int(torch.randint(2**62, (1,), generator=generator))
        tone = torch.rand((7, num), generator=generator)
        return _Draws(kind, sizes, spread, is_per_channel < 0.5, tone), noise_seed

    def _degrade(
        self, pixels: Tensor, images: Tensor, drawn: _Draws, noise_of_rows: Iterator[Tensor]
    ) -> None:
        """Blur, median-filter or add noise to the float32 ``pixels`` in place, one or none to a sample."""
        kinds, median_sizes = torch.stack([drawn.kind, drawn.sizes[0]]).tolist()
        if rows := _rows_where([kind == _GAUSSIAN for kind in kinds]):
            sizes = drawn.sizes[:, rows]
            on_device = sizes.to(pixels.device, non_blocking=True)
            places = _on_device(rows, pixels)
            pixels[places] = blur_gaussian(pixels[places], on_device, int(sizes.max()))
        for size in sorted(set(self.blur_kernels) - {1}):
            draws = zip(kinds, median_sizes, strict=True)
            if rows := _rows_where([draw == (_MEDIAN, size) for draw in draws]):
                places = _on_device(rows, pixels)
                pixels[places] = filter_median(images[places], size).to(pixels.dtype)
        if rows := _rows_where([kind == _NOISE for kind in kinds]):
            noise = next(noise_of_rows)
            colours, deviation = torch.stack(
                [drawn.is_per_channel[rows], self.noise * drawn.spread[rows]]
            ).to(pixels.device, non_blocking=True)
            noise = torch.where(_per_sample(colours > 0), noise, noise[:, :1])
            pixels[_on_device(rows, pixels)] += noise.mul_(_per_sample(deviation))

    def _recolour(self, pixels: Tensor, tone: Tensor) -> None:
        """Change hue, saturation, brightness and contrast of the float32 ``pixels`` in place.

        Unclipped, saturation, brightness and contrast commute, and so do hue and brightness. Of a random
        order of the four only this is left to draw: whether saturation, and whether contrast, precedes hue.
        """
        hue_turn, more_saturation, more_brightness = 2 * tone[:3] - 1
        hue_place, saturation_place, contrast_place = tone[4:]
        low, high = self.contrast
        saturation = 1 + self.saturation * more_saturation
        contrast = low + (high - low) * tone[3]
        if self.hue:
            early_saturation = torch.where(saturation_place < hue_place, saturation, 1.0)
            early_contrast = torch.where(contrast_place < hue_place, contrast, 1.0)
            adjust_tone(pixels, early_saturation, early_contrast)
            shift_hue(pixels, self.hue * hue_turn)
            saturation = torch.where(saturation_place < hue_place, 1.0, saturation)
            contrast = torch.where(contrast_place < hue_place, 1.0, contrast)
        adjust_tone(pixels, saturation, contrast, self.brightness * more_brightness)


def _draw_noise(kinds: list[int], rows: range, images: Tensor, seed: int) -> Iterator[Tensor]:
    """Yield the noise, mean 0 and deviation 1, of the next of our rows that get some: one at a time on a CPU.

    That of the whole batch is drawn, and what is not ours dropped: each row gets the same in whatever share it is.

    Args:
        kinds: degradation of each row of the whole batch.
        rows: ours.
        images: (N, 3, H, W) of our rows.
        seed: of the noise.
    """
    generator = torch.Generator(images.device).manual_seed(seed)
    noisy = [row for row, kind in enumerate(kinds) if kind == _NOISE]
    groups = [[row] for row in noisy] if _is_on_host(images) else [noisy]
    for group in groups:
        shape = (len(group), *images.shape[1:])
        noise = torch.randn(shape, generator=generator, device=images.device)
        if chosen := _rows_where([row in rows for row in group]):
            yield noise[_on_device(chosen, noise)]


def _rows_where(is_wanted: list[bool]) -> list[int] | slice | None:
    """Return what selects the wanted rows, None for no row; a slice, which copies nothing, for all."""
    if is_wanted and all(is_wanted):
        return slice(None)
    return [row for row, wanted in enumerate(is_wanted) if wanted] or None


def _on_device(rows: list[int] | slice, like: Tensor) -> Tensor | slice:
    """Return what selects rows where a tensor lies; a list would be brought there while the host waits."""
    return rows if isinstance(rows, slice) else torch.tensor(rows).to(like.device, non_blocking=True)


def shift_hue(pixels: Tensor, steps: Tensor) -> Tensor:
    """Turn the HSV hue of each sample in place; value, chroma and grey pixels stay.

    With the hue h in sextants from -3 to 3 and the channels scaled so that the least is 0 and the greatest
    1, ``|h| = 1 + G + B - R``, and h is negative where B exceeds G: the HSV hexagon (Smith 1978) without its
    case list.

    Args:
        pixels: (N, 3, H, W) float32 RGB in grey levels; may leave 0..255.
        steps: (N,) float32, in steps of a 180-step circle.

    Returns:
        ``pixels``.
    """
    red, green, blue = pixels.unbind(1)
    low = pixels.amin(1)
    chroma = pixels.amax(1).sub_(low)
    hue = (green + blue).sub_(red).sub_(low).div_(chroma.clamp(min=_SMALLEST_CHROMA)).add_(1)
    hue = torch.copysign(hue, green - blue).add_(steps[:, None, None] * _SEXTANTS_PER_HUE_STEP)
    hue -= 6 * torch.round(hue / 6)
    scaled = torch.stack([2 - hue.abs(), (hue + 1).abs_().sub_(1), (hue - 1).abs_().sub_(1)], dim=1)
    scaled.clamp_(0, 1).mul_(chroma[:, None]).add_(low[:, None])
    return pixels.copy_(scaled)


def adjust_tone(
    pixels: Tensor, saturation: Tensor, contrast: Tensor, brightness: Tensor | None = None
) -> Tensor:
    """Change saturation, contrast and brightness of each sample in place; nothing is clipped.

    Args:
        pixels: (N, 3, H, W) float32 RGB in grey levels.
        saturation: (N,) float32, share of the colour against its grey image; 0 gives grey, 1 leaves it.
        contrast: (N,) float32, factor about the mean of each channel over the sample; 1 leaves it.
        brightness: (N,) float32 grey levels to add, or None.

    Returns:
        ``pixels``.
    """
    saturation, contrast = _per_sample(saturation), _per_sample(contrast)
    grey, mean = _to_grey(pixels), pixels.mean((2, 3), keepdim=True)
    offset = (1 - contrast) * (saturation * mean + (1 - saturation) * _to_grey(mean))
    if brightness is not None:
        offset += _per_sample(brightness)
    return pixels.mul_(saturation * contrast).add_(grey.mul_((1 - saturation) * contrast)).add_(offset)


def _to_grey(pixels: Tensor) -> Tensor:
    """Turn (N, 3, H, W) into (N, 1, H, W), a new tensor."""
    red, green, blue = pixels.split(1, dim=1)
    return (_LUMA[0] * red).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def blur_gaussian(pixels: Tensor, sizes: Tensor, largest: int) -> Tensor:
    """Blur each sample with binomial weights, the usual small Gaussian; the border pixels repeat outwards.

    Args:
        pixels: (N, 3, H, W) float32.
        sizes: (2, N) integer, odd window heights and widths in pixels, 1..largest.
        largest: the greatest size that ``sizes`` may hold, odd.

    Returns:
        (N, 3, H, W) float32, a new tensor.
    """
    weights = torch.zeros((largest + 1, largest))
    for size in range(1, largest + 1, 2):
        start = (largest - size) // 2
        row = [comb(size - 1, step) for step in range(size)]
        weights[size, start : start + size] = torch.tensor(row) / 2 ** (size - 1)
    taps = weights.to(pixels.device, non_blocking=True)[sizes]  # (2, N, largest)
    for axis in (2, 3):
        padded = _repeat_border(pixels, largest // 2, axis)
        shifted = (padded.narrow(axis, step, pixels.shape[axis]) for step in range(largest))
        blurred = torch.zeros_like(pixels)
        for step, values in enumerate(shifted):
            blurred.addcmul_(values, _per_sample(taps[axis - 2, :, step]))
        pixels = blurred
    return pixels


def filter_median(images: Tensor, size: int) -> Tensor:
    """Take the median of every square window, channel by channel; the border pixels repeat outwards.

    Holds just over half of the window, drops the least and greatest of these, which cannot be the median, and
    takes the next value in, until one is left. Whole images are compared at a time: on uint8 far faster than
    sorting.

    Args:
        images: (N, 3, H, W), any real dtype.
        size: odd window size in pixels.

    Returns:
        (N, 3, H, W) in the dtype of ``images``.
    """
    if _is_on_host(images) and images.dtype == torch.uint8:  # 15 times as fast as below
        rows = [image.movedim(0, -1).contiguous().numpy() for image in images]
        filtered = [torch.from_numpy(cv2.medianBlur(row, size)).view(row.shape) for row in rows]
        return torch.stack(filtered).movedim(-1, 1) if filtered else images.clone()
    padded = _repeat_border(_repeat_border(images, size // 2, 2), size // 2, 3)
    height, width = images.shape[2:]
    window = [padded[:, :, y : y + height, x : x + width] for y in range(size) for x in range(size)]
    num_held = min(len(window) // 2 + 2, len(window))
    held, waiting = window[:num_held], window[num_held:]
    while len(held) > 1:
        held = _drop_extremes(held)
        if waiting:
            held.append(waiting.pop())
    return held[0]


def _drop_extremes(held: list[Tensor]) -> list[Tensor]:
    """Return the values without, at each position, the least and the greatest; the list shortens by two."""
    held = list(held)
    last = len(held) - 1

    def order(low: int, high: int) -> None:
        held[low], held[high] = torch.minimum(held[low], held[high]), torch.maximum(held[low], held[high])

    for index in range(len(held) // 2):  # the least is now in the first half, the greatest in the second
        order(index, last - index)
    for index in range(1, (len(held) + 1) // 2):
        order(0, index)
    for index in range(len(held) // 2, last):
        order(index, last)
    return held[1:-1]


def _repeat_border(images: Tensor, margin: int, axis: int) -> Tensor:
    """Pad ``axis`` by ``margin`` at both ends with its border values; unlike F.pad, for uint8 too."""
    first, last = images.narrow(axis, 0, 1), images.narrow(axis, images.shape[axis] - 1, 1)
    return torch.cat([*[first] * margin, images, *[last] * margin], dim=axis)


def _per_sample(values: Tensor) -> Tensor:
    """View (N,) values as (N, 1, 1, 1), to meet a batch of images."""
    return values[:, None, None, None]


def _is_on_host(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"

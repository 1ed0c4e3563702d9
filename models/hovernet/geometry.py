"""Sizes: which inputs a network takes, what it gives back, and every crop in between, derived from its kernels."""

from __future__ import annotations

from dataclasses import dataclass

ENCODER_STRIDE = 8  # the encoder of HoVer-Net halves three times
DENSE_UNITS = {"u3": 8, "u2": 4}  # valid k x k convolutions in each dense block, after one in `conva`
STEM_KERNEL = 7
KERNELS = {"original": 5, "fast": 3}  # decoder kernel of the two published modes
PUBLISHED_INPUT = {"original": 270, "fast": 256}
FEATURE_BYTES = 3000  # a window pixel: four to five times 256 channels at full resolution in bf16
STEM_LOSS = {"original": STEM_KERNEL - 1, "fast": 0}  # `original` convolves the stem without padding


@dataclass(frozen=True)
class Geometry:
    """The sizes of a fully convolutional network.

    Attributes:
        name: what the network is called in messages.
        margin: input size minus output size in pixels, split evenly over both sides.
        multiple: valid input sizes leave `remainder` when divided by this.
        remainder: see `multiple`.
        smallest: the smallest valid input size in pixels.
        published: the input size that the network was published with, or is usually trained with, in pixels.
        feature_bytes: about how many bytes each pixel of a window takes in features at once, in bf16, at inference.
    """

    name: str
    margin: int
    multiple: int
    remainder: int
    smallest: int
    published: int
    feature_bytes: int = 0

    def output_size(self, input_size: int) -> int:
        """Return the output size in pixels; ValueError names the two nearest sizes that fit."""
        self.check(input_size)
        return input_size - self.margin

    def input_size_for(self, output_size: int) -> int:
        """Return the smallest valid input size whose output covers `output_size` pixels."""
        needed = max(output_size + self.margin, self.smallest)
        return needed + (self.remainder - needed) % self.multiple

    def check(self, input_size: int) -> None:
        """Raise ValueError unless the network takes `input_size` pixels."""
        if input_size >= self.smallest and input_size % self.multiple == self.remainder:
            return
        above = self.input_size_for(input_size - self.margin)
        below = above - self.multiple
        fits = f"{below} and {above}" if below >= self.smallest else f"{above} (the smallest)"
        raise ValueError(
            f"input size {input_size} does not fit {self.name}: sizes must leave {self.remainder} "
            f"when divided by {self.multiple}; the nearest that fit are {fits}"
        )


@dataclass(frozen=True)
class SkipCrops:
    """Pixels that valid convolutions have cost each skip connection, at the skip's own resolution."""

    d0: int
    d1: int


def skip_crops(mode: str) -> SkipCrops:
    """Return how much the encoder's features lose, both sides together, before they meet the decoder's."""
    loss = KERNELS[mode] - 1
    after_u3 = loss * (1 + DENSE_UNITS["u3"])
    after_u2 = loss * (1 + DENSE_UNITS["u2"])
    return SkipCrops(d0=4 * after_u3 + 2 * after_u2, d1=2 * after_u3)


def hovernet_geometry(mode: str) -> Geometry:
    """Return the geometry of HoVer-Net's `original` (270 → 80) or `fast` (256 → 164) mode at any valid size."""
    margin = skip_crops(mode).d0 + STEM_LOSS[mode]
    remainder = STEM_LOSS[mode] % ENCODER_STRIDE
    smallest = margin + 1 + (remainder - margin - 1) % ENCODER_STRIDE
    name = f"HoVerNet mode '{mode}'"
    return Geometry(name, margin, ENCODER_STRIDE, remainder, smallest, PUBLISHED_INPUT[mode], FEATURE_BYTES)

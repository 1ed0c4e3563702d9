"""Geometry of training patches on the CPU: image and maps are warped, cropped and flipped together."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import Any

import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would look its version up on the network

import albumentations as A  # noqa: E402
import cv2  # noqa: E402

CROPS = ("centre", "random")
Sample = tuple[np.ndarray, np.ndarray, np.ndarray | None]


@dataclass(frozen=True)
class GeometrySettings:
    """Ranges of the warp; the defaults are those of Graham et al.'s published code.

    Attributes:
        crop: which part of the patch the network sees: its ``centre``, or a ``random`` window whose content
            lies inside the patch (the centre where no other fits).
        scale: smallest and largest factor, drawn for x and y apart.
        shift: largest translation, as a fraction of the patch; a ``random`` crop takes its place.
        shear: largest shear along x and y in degrees.
        rotation: largest rotation in degrees, either way.
        flip: probability of each of the two flips.
    """

    crop: str = "centre"
    scale: tuple[float, float] = (0.8, 1.2)
    shift: float = 0.01
    shear: float = 5.0
    rotation: float = 179.0
    flip: float = 0.5

    def __post_init__(self) -> None:
        """Check what no single field can say."""
        if self.crop not in CROPS:
            raise ValueError(f"crop={self.crop!r} is not known; use one of: {', '.join(CROPS)}")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale={self.scale} must be (smallest, largest), both above 0")


class Geometry:
    """A random warp, crop and flip, the same for the image and its maps.

    The image is interpolated linearly, the maps take the nearest pixel; what lies outside the patch is its
    reflection. One warp goes straight to the output's size: the rest of the patch is never computed.

    Args:
        input_size: side of the output in pixels.
        settings: ranges of the warp.
    """

    def __init__(self, input_size: int, settings: GeometrySettings) -> None:
        self.input_size = input_size
        self._transforms = [
            WarpedCrop(input_size, settings),
            A.HorizontalFlip(p=settings.flip),
            A.VerticalFlip(p=settings.flip),
        ]
        targets = {"label_map": "mask", "type_map": "mask"}
        self._compose = A.Compose(self._transforms, additional_targets=targets)

    def __call__(
        self, image: np.ndarray, label_map: np.ndarray, type_map: np.ndarray | None, seed: int
    ) -> Sample:
        """Warp one patch.

        Args:
            image: (S, S, 3) uint8 RGB, S at least ``input_size``.
            label_map: (S, S) int32.
            type_map: (S, S) uint8, or None.
            seed: the same seed gives the same warp, whatever was drawn before.

        Returns:
            The same three at (input_size, input_size), dtypes kept.
        """
        # Compose.set_random_seed would give each transform the same numbers: both flips or neither.
        numpy_generator, python_generator = np.random.default_rng(seed), random.Random(seed)
        for transform in self._transforms:
            transform.set_random_state(numpy_generator, python_generator)
        label_map = np.ascontiguousarray(label_map, dtype=np.int32)
        maps = {
            "label_map": label_map.view(np.uint8).reshape(*label_map.shape, 4)
        }  # OpenCV's fast way, and exact
        if type_map is not None:
            maps["type_map"] = type_map
        warped = self._compose(image=image, **maps)
        label_map = np.ascontiguousarray(warped["label_map"]).view(np.int32)[..., 0]
        return warped["image"], label_map, warped.get("type_map")


class WarpedCrop(A.Affine):
    """An affine warp about the patch's centre of which only a window is computed.

    Args:
        input_size: side of the window in pixels.
        settings: ranges of the warp, and where the window lies.
    """

    def __init__(self, input_size: int, settings: GeometrySettings) -> None:
        super().__init__(
            scale={"x": tuple(settings.scale), "y": tuple(settings.scale)},
            translate_percent={
                "x": (-settings.shift, settings.shift),
                "y": (-settings.shift, settings.shift),
            },
            shear={"x": (-settings.shear, settings.shear), "y": (-settings.shear, settings.shear)},
            rotate=(-settings.rotation, settings.rotation),
            interpolation=cv2.INTER_LINEAR,
            mask_interpolation=cv2.INTER_NEAREST,
            border_mode=cv2.BORDER_REFLECT_101,
            p=1.0,
        )
        self.input_size = input_size
        self.crop = settings.crop

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the warp and move its matrix so that the window's corner is the origin."""
        drawn = super().get_params_dependent_on_data(params, data)
        size_xy = np.array(params["shape"][1::-1])
        matrix = np.array(drawn["matrix"], dtype=np.float64)
        corner_xy = (size_xy - self.input_size) // 2
        if self.crop == "random":
            corner_xy = self._draw_corner(matrix, size_xy)
        matrix[:2, 2] -= corner_xy
        return {**drawn, "matrix": matrix, "output_shape": (self.input_size, self.input_size)}

    def apply(self, img: np.ndarray, *args: Any, **params: Any) -> np.ndarray:
        """Warp the image; an identity comes back from albumentations uncropped."""
        padded = cv2.cvtColor(img, cv2.COLOR_RGB2RGBA)  # OpenCV warps four channels in half the time of three
        warped = super().apply(padded, *args, **params)[: self.input_size, : self.input_size]
        return cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)

    def apply_to_mask(self, mask: np.ndarray, *args: Any, **params: Any) -> np.ndarray:
        """Warp a map; an identity comes back from albumentations uncropped."""
        return super().apply_to_mask(mask, *args, **params)[: self.input_size, : self.input_size]

    def _draw_corner(self, matrix: np.ndarray, size_xy: np.ndarray) -> np.ndarray:
        """Draw the window's whole-pixel corner in the warped frame, such that it looks inside the patch."""
        half = (self.input_size - 1) / 2
        # of the window, in the patch's frame
        reach_xy = np.abs(np.linalg.inv(matrix[:2, :2])) @ (half, half) + 1
        middle_xy = (size_xy - 1) / 2
        room_xy = np.maximum(0, middle_xy - reach_xy)
        draws = (self.py_random.uniform(-1, 1), self.py_random.uniform(-1, 1))
        centre_xy = middle_xy + room_xy * draws
        return np.rint(matrix[:2, :2] @ centre_xy + matrix[:2, 2] - half)


def crop_centre(values: np.ndarray, size: int) -> np.ndarray:
    """Cut the (size, size, ...) centre out of (S, S, ...); an odd rest stays at the lower right."""
    top, left = (values.shape[0] - size) // 2, (values.shape[1] - size) // 2
    return values[top : top + size, left : left + size]

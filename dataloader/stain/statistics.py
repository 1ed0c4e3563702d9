"""What is known of the stain of an image or slide: a few numbers, stored with patches, in manifests and as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

IDENTITY = "identity"
POSITIVE = ("max_concentrations", "lab_std")  # images are divided by them


@dataclass(frozen=True)
class StainStatistics:
    """The stain of one image or slide, as plain numbers.

    Attributes:
        method: what fitted it; ``identity`` where there was too little tissue: such an image is left as it is.
        stain_matrix: (3, 2) optical densities per unit of stain, unit columns; rows R, G, B, columns
            haematoxylin, eosin. None for ``reinhard`` and ``identity``.
        max_concentrations: (2,) 99th percentiles of the concentrations of the two stains; None likewise.
        lab_mean: (3,) mean L*, a*, b* of the tissue, for ``reinhard`` alone.
        lab_std: (3,) standard deviations likewise.
        intensity: grey level of no absorption, from which the optical densities count.
    """

    method: str
    stain_matrix: tuple[tuple[float, float], ...] | None = None
    max_concentrations: tuple[float, float] | None = None
    lab_mean: tuple[float, float, float] | None = None
    lab_std: tuple[float, float, float] | None = None
    intensity: float = 255.0

    def __post_init__(self) -> None:
        for name, shape in (
            ("stain_matrix", (3, 2)),
            ("max_concentrations", (2,)),
            ("lab_mean", (3,)),
            ("lab_std", (3,)),
        ):
            value = getattr(self, name)
            if value is None:
                continue
            try:
                array = np.asarray(value, np.float64)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name}={value} must be {shape} numbers; fit again") from error
            if array.shape != shape or not np.isfinite(array).all():
                raise ValueError(f"{name}={value} must be {shape} finite numbers; fit again")
            rows = array.tolist()
            object.__setattr__(self, name, tuple(map(tuple, rows)) if array.ndim == 2 else tuple(rows))
            if name in POSITIVE and array.min() <= 0:
                raise ValueError(f"{name}={value} must be above 0; fit again")
        if self.stain_matrix and not np.any(self.stain_matrix, axis=0).all():
            raise ValueError(
                f"stain_matrix={self.stain_matrix} has a column of zeros, which is no stain; fit again"
            )
        if not _is_number(self.intensity) or not 0 < self.intensity < math.inf:
            raise ValueError(
                f"intensity={self.intensity} must be a number above 0, a grey level; 255 is usual"
            )
        object.__setattr__(self, "intensity", float(self.intensity))
        is_known = (self.stain_matrix and self.max_concentrations) or (self.lab_mean and self.lab_std)
        if not is_known and self.method != IDENTITY:
            raise ValueError(
                f"statistics of method '{self.method}' hold neither stains nor L*a*b*; fit again"
            )

    @property
    def is_identity(self) -> bool:
        """Whether nothing could be fitted, so that the image is left as it is."""
        return self.method == IDENTITY

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; what is None is left out."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return json.loads(json.dumps(known))  # lists for tuples, as a file gives them back

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> StainStatistics:
        """Return the statistics that :meth:`to_dict` described.

        Raises:
            ValueError: if they are incomplete or of another kind.
        """
        known = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or "method" not in values or not set(values) <= known:
            raise ValueError(f"{values} are no stain statistics; keys are {', '.join(sorted(known))}")
        return cls(**values)

    def save(self, path: str | Path) -> None:
        """Write JSON; an existing file is replaced."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> StainStatistics:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it holds no stain statistics.
        """
        try:
            values = json.loads(Path(path).read_text())
        except ValueError as error:
            raise ValueError(
                f"{path} is no JSON ({error}); save statistics with StainStatistics.save"
            ) from error
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


PUBLISHED_TARGET = StainStatistics(
    "macenko",
    stain_matrix=((0.5626, 0.2159), (0.7201, 0.8012), (0.4062, 0.5581)),
    max_concentrations=(1.9705, 1.0308),
    intensity=240.0,
)
"""The reference stain that the common Macenko implementations share."""

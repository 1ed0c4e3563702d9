"""What a table of nuclei says beside its rows: scales, and the types' names and colours."""

from __future__ import annotations

from typing import Any, NamedTuple

from models.nuclei import NucleusType
from run_utils.outputs.colours import name_types
from run_utils.outputs.result import SlideResult


class Facts(NamedTuple):
    """What holds for all nuclei of a slide.

    Attributes:
        mpp: µm to a working pixel, or None where unknown.
        level0_scale: level-0 pixels to a working pixel.
        types: what type 0..T-1 is called and its colour; None without types.
    """

    mpp: float | None
    level0_scale: float
    types: tuple[NucleusType, ...] | None

    @staticmethod
    def of(result: SlideResult) -> Facts:
        """Return a result's facts; types that have no names are called by number."""
        num_types = _count_types(result) if result.types is None else len(result.types)
        types = None if num_types is None else name_types(result.types, num_types)
        return Facts(result.mpp, result.level0_scale, types)

    @staticmethod
    def parse(values: dict[str, Any]) -> Facts:
        """Return the facts that ``to_dict`` gave, or those of a JSON file without them."""
        types = values.get("types")
        return Facts(
            values.get("mpp"),
            values.get("level0_scale", 1.0),
            None if types is None else tuple(NucleusType(name, (*colour,)) for name, colour in types),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        types = None if self.types is None else [[kind.name, list(kind.colour)] for kind in self.types]
        return {"mpp": self.mpp, "level0_scale": self.level0_scale, "types": types}

    def unique_names(self) -> list[str]:
        """Return a name for each type, those that occur twice with their number; none without types."""
        names = [kind.name for kind in self.types or ()]
        return [f"{name} ({row})" if names.count(name) > 1 else name for row, name in enumerate(names)]


def _count_types(result: SlideResult) -> int | None:
    """Return how many types, background counted, nuclei without names speak of; None without types.

    Their probabilities tell it at once; types alone only when the last part is there.
    """
    num_types = None
    for part in result.parts():
        if part.nuclei.type_probabilities is not None:
            return part.nuclei.type_probabilities.shape[1]
        if part.nuclei.types is None:
            return None
        num_types = max(num_types or 0, int(part.nuclei.types.max(initial=-1)) + 1)
    return num_types

"""Colours of nucleus types where none are given: told apart by the colour-blind, seen on pink and purple."""

from __future__ import annotations

from models.nuclei import NucleusType

BACKGROUND_COLOUR = (128, 128, 128)
PALETTE = (  # RGB; they differ in lightness too, and keep away from the hues of haematoxylin and eosin
    (255, 225, 25),  # yellow
    (0, 190, 255),  # sky blue
    (0, 125, 60),  # dark green
    (255, 85, 0),  # orange
    (20, 20, 20),  # black
    (30, 60, 255),  # blue
    (150, 255, 120),  # light green
    (255, 255, 255),  # white
    (120, 60, 0),  # brown
)


def default_colours(num_types: int) -> tuple[tuple[int, int, int], ...]:
    """Return an RGB colour, each 0..255, for type 0 (background) to ``num_types - 1``.

    The first nine types differ from one another; further ones repeat them.
    """
    repeated = (PALETTE[index % len(PALETTE)] for index in range(max(num_types - 1, 0)))
    return (BACKGROUND_COLOUR, *repeated)[:num_types]


def name_types(types: tuple[NucleusType, ...] | None, num_types: int) -> tuple[NucleusType, ...]:
    """Return ``types``, or ``num_types`` of them called by number where there are none."""
    if types is not None:
        return types
    return tuple(
        NucleusType(f"type {index}", colour) for index, colour in enumerate(default_colours(num_types))
    )

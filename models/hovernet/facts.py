"""What a network says of itself besides its weights; kept in its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from models.nuclei import NucleusType


@dataclass
class ModelFacts:
    """Facts that inference needs, and notes that people read.

    Attributes:
        types: name and colour of each type, background first; None where the network gives no types, or
            its file does not name them.
        mpp: µm/px that the network was trained at; None where unknown.
        notes: further plain data, such as training settings, scores and licence.
        digest: SHA-256 of the weights as the file held them; None where it does not say.
    """

    types: tuple[NucleusType, ...] | None = None
    mpp: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    digest: str | None = None

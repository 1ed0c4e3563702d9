"""What encoding (``targets``), training (``losses``) and decoding (``postprocess``) must agree on."""

from __future__ import annotations

HORIZONTAL = 0
"""Channel of the HV map that runs along x: -1 at a nucleus's left edge, 1 at its right."""

VERTICAL = 1
"""Channel of the HV map that runs along y: -1 at a nucleus's top edge, 1 at its bottom."""

BACKGROUND = 0
"""Value of background in a label map, a type map and a nuclei map."""

NUCLEUS = 1
"""Channel of the nuclei logits, and value of the nuclei target, that means nucleus."""

FULL_LEVEL = 255
"""Of probabilities as uint8: that which stands for 1."""

"""Write tile.npz: a tile of the sample slide and what the shipped model makes of it.

Run ``python -m tests.golden.make_tile`` only where the shipped model changes, after a look at its overlay.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dataloader.slides import open_slide
from models.hovernet.checkpoint import load_checkpoint
from models.hovernet.postprocess import decode
from run_utils.inference.torch_predictor import TorchPredictor

ROOT = Path(__file__).resolve().parents[2]
SLIDE = ROOT / "samples" / "CMU-1-Small-Region.svs"
CHECKPOINT = ROOT / "samples" / "hovernet_lite_consep.pt"
TILE = Path(__file__).with_name("tile.npz")
BOX_YXYX = (4400, 1560, 4640, 1800)  # at 0.25 µm/px: epidermis


def main() -> None:
    """Predict in float32 on the CPU and store image, maps and label map."""
    with open_slide(SLIDE) as slide:
        image = slide.read(BOX_YXYX, 0.25)
    maps = TorchPredictor(load_checkpoint(CHECKPOINT), torch.device("cpu"), torch.float32).predict(
        image[None]
    )
    nuclei, hv, types = (part[0].astype(np.float16) for part in maps)
    label_map, _ = decode(nuclei.astype(np.float32), hv.astype(np.float32), types.astype(np.float32))
    np.savez_compressed(
        TILE, image=image, nuclei=nuclei, hv=hv, types=types, label_map=label_map.astype(np.uint16)
    )


if __name__ == "__main__":
    main()

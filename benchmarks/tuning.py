"""Print how long the search of `tune.py` takes on CoNSeP's validation images: `python -m benchmarks.tuning`.

Maps are predicted once and decoded with every setting; the straightforward way, predicting for every setting anew, is
measured for one setting and multiplied.
"""

from __future__ import annotations

import argparse
import itertools
import time

from benchmarks.figures import Figure, state
from config.schema import TuneSettings
from run_utils.tuning import Search, Setting, predict_images

CHECKPOINT = "samples/hovernet_lite_consep.pt"
NUCLEI_THRESHOLDS = [0.3 + 0.04 * step for step in range(10)]
MARKER_THRESHOLDS = [0.3 + 0.03 * step for step in range(10)]


def main() -> None:
    """Search 100 pairs of thresholds, and print a line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--patches", default="data/patches/consep/validation.zarr", help="patch store of the images"
    )
    parser.add_argument("--checkpoint", default=CHECKPOINT)
    arguments = parser.parse_args()
    start = time.perf_counter()
    images = predict_images(TuneSettings(checkpoint=arguments.checkpoint, patches=arguments.patches))
    predicting = time.perf_counter() - start
    search = Search(images, "window_free")
    start = time.perf_counter()
    search.score([Setting(*pair, 10) for pair in itertools.product(NUCLEI_THRESHOLDS, MARKER_THRESHOLDS)])
    searching = time.perf_counter() - start
    num = len(search.scores)
    print(f"{len(images)} images predicted once in {predicting:.1f} s (loading included)")
    print(f"{num} settings on them in {searching:.1f} s, {predicting + searching:.1f} s together")
    anew = num * predicting + searching
    what, way = f"{num} decode settings on {len(images)} images", "predicting anew for every setting"
    state(Figure(what, predicting + searching, "s", anew, way, asked="at most 120 s"))


if __name__ == "__main__":
    main()

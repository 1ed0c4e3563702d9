"""Settings of `tune.py`, the search for the decode settings of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field

from config.checks import MISSING, check_choice, check_not_negative


@dataclass
class TuneSettings:
    """`tune.py`: the decode settings with which a checkpoint finds most nuclei of validation images right.

    Attributes:
        checkpoint: ours, or an official HoVer-Net `.tar`.
        patches: patch store, or folder of `.npy` patches, of the images to tune on, never those of the test.
        max_images: of them that are tuned on, evenly spread: their maps stay in memory; 0 for all.
        output: checkpoint to write, with what was found; empty writes it into `checkpoint` itself.
        nuclei_thresholds: to try: probability from which a pixel belongs to a nucleus.
        marker_thresholds: to try with each of them: gradient strength below which a nuclear pixel marks an inside.
        min_sizes: to try with the best of these: pixels of the smallest blob that is taken for nuclei.
        min_areas: to try for each type, last: pixels of its smallest nucleus.
        normalisation: of the HV gradients: `window_free` or `reference`.
        stain: how images are normalised, as in run_infer.py.
        window: largest side of the network's input in pixels; 0 chooses by network and device.
        workers: threads that decode; -1 takes one per CPU this process may use.
        precision: `fp32`, `bf16` or `fp16`; `auto` takes bf16 where the device is fast with it.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
    """

    checkpoint: str = MISSING
    patches: str = MISSING
    max_images: int = 50
    output: str = ""
    nuclei_thresholds: list[float] = field(
        default_factory=lambda: [0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7]
    )
    marker_thresholds: list[float] = field(
        default_factory=lambda: [0.3, 0.34, 0.37, 0.4, 0.43, 0.46, 0.5, 0.54, 0.58, 0.62]
    )
    min_sizes: list[int] = field(default_factory=lambda: [5, 10, 15, 20, 30, 40])
    min_areas: list[int] = field(default_factory=lambda: [0, 20, 30, 40, 50, 60, 80, 100, 120, 150])
    normalisation: str = "window_free"
    stain: str = "auto"
    window: int = 0
    workers: int = -1
    precision: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        """Check what no single field can say."""
        check_choice("normalisation", self.normalisation, ("window_free", "reference"))
        check_choice("precision", self.precision, ("auto", "fp32", "bf16", "fp16"))
        check_not_negative("tune", max_images=self.max_images)
        for name in ("nuclei_thresholds", "marker_thresholds", "min_sizes"):
            if not getattr(self, name):
                raise ValueError(f"{name}=[] leaves nothing to try; give at least one value")
        for name in ("nuclei_thresholds", "marker_thresholds"):
            if not all(0 < value <= 1 for value in getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)} must lie above 0 and up to 1")
        if min(self.min_sizes) < 1 or min(self.min_areas, default=0) < 0:
            raise ValueError(
                f"min_sizes={self.min_sizes} must be 1 px or more, min_areas={self.min_areas} 0 or more"
            )

"""Settings of `check_data.py`, the doctor of data sets."""

from __future__ import annotations

from dataclasses import dataclass, field

from config.checks import MISSING, check_not_negative, check_positive
from config.data import DataSettings


@dataclass
class CheckSettings:
    """`check_data.py`: what a data set holds, and what is wrong with it.

    Attributes:
        data: the data set; every split that its folder holds is checked.
        output: folder for the report (JSON), contact sheets and histograms; those of an earlier check are replaced.
        min_area: pixels below which a nucleus is called tiny.
        max_area_um2: µm² above which a nucleus is called giant.
        near_duplicate: likeness, up to 1, from which two images of different splits are called near-duplicates;
            0 does not compare.
        num_panels: images of each split on its contact sheet; 0 writes none.
        num_shown: complaints of a kind that are printed; the report holds all.
        workers: threads that read images; -1 takes one per CPU this process may use.
        seed: of the choice of images for the contact sheets.
    """

    data: DataSettings = field(default_factory=DataSettings)
    output: str = MISSING
    min_area: int = 10
    max_area_um2: float = 1000.0
    near_duplicate: float = 0.7
    num_panels: int = 6
    num_shown: int = 3
    workers: int = -1
    seed: int = 10

    def __post_init__(self) -> None:
        """Check what no single field can say."""
        check_positive(max_area_um2=self.max_area_um2, num_shown=self.num_shown)
        check_not_negative("check", min_area=self.min_area, num_panels=self.num_panels)
        if not 0 <= self.near_duplicate <= 1:
            raise ValueError(f"near_duplicate={self.near_duplicate} must lie in 0..1; 0 compares nothing")
        if self.workers < -1 or self.workers == 0:
            raise ValueError(f"workers={self.workers} must be 1 or more, or -1 for one a CPU")

"""Settings of the command that measures predictions against the truth."""

from __future__ import annotations

from dataclasses import dataclass, field

from config.checks import MISSING, check_choice, check_not_negative

MODES = ("instance", "type", "all")


@dataclass
class EvaluateSettings:
    """`compute_stats.py`: predictions beside the truth, to scores.

    Attributes:
        true: folder of true nuclei: label maps (mat, npy, png, tif) or anything that `predicted` may be; with
            `adapter`, root of a published data set.
        predicted: folder of predicted nuclei: what inference wrote (mat, npy, label, store, parquet, json, geojson or
            qupath), the reference's mat or JSON, label maps, or QuPath's GeoJSON or TSV of points; files pair by
            name without ending.
        against: folder of another run's predictions: the differences, `predicted` less this, on the images of both.
        mode: `instance` (DICE1, DICE2, AJI, AJI+, DQ, SQ, PQ, F1 by IoU, bPQ), `type` (F_d, accuracy, F_c, confusion,
            counts; mPQ and mPQ+ where there are shapes) or `all` that the files allow.
        output: folder for report.html, stats.csv, stats.json and the tables; where empty, that of the predictions.
        images: folder of the images themselves, by name, for the report's pictures; a data set has its own.
        examples: best and worst images that the report shows, each; 0 for none.
        title: of the report.
        radius: farthest distance in pixels between two centroids of a pair; 0 for 3 µm (12 at 40x, 6 at 20x) where
            µm/px is known, else 12.
        type_names: names of the types in order, background first; empty numbers them.
        merge_types: what each type of the truth counts as, in order, background first, where it has more types
            than the prediction: [0,1,2,3,3,4,4,4] for CoNSeP's raw seven; empty leaves them.
        adapter: name of a published data set's layout, as of `extract_patches.py`; empty for a folder of files.
        split: of the data set, with `adapter`.
        mpp: µm/px of the images, where the data set leaves it open; 0 takes what it says.
        class_names: names of the types, background first, where the data set leaves them open.
        colours: of colour-coded masks: [R, G, B] of each type, by its name.
        types: what the data set's files hold, where it comes with `raw` and with `merged` types; `auto` looks.
        tissues: CSV of lines `name,tissue` for mPQ and bPQ by tissue; empty takes what the data set names.
        resamples: draws of images for the 95 % intervals of the scores; 0 for none.
        seed: of these draws.
    """

    true: str = MISSING
    predicted: str = MISSING
    against: str = ""
    mode: str = "instance"
    output: str = ""
    images: str = ""
    examples: int = 5
    title: str = "Predicted and true nuclei"
    radius: float = 0.0
    type_names: list[str] = field(default_factory=list)
    merge_types: list[int] = field(default_factory=list)
    adapter: str = ""
    split: str = "Test"
    mpp: float = 0.0
    class_names: list[str] = field(default_factory=list)
    colours: dict[str, list[int]] = field(default_factory=dict)
    types: str = ""
    tissues: str = ""
    resamples: int = 1000
    seed: int = 10

    def __post_init__(self) -> None:
        """Check what no single field can say."""
        check_choice("mode", self.mode, MODES)
        check_choice("types", self.types, ("", "auto", "merged", "raw"))
        check_not_negative("evaluate", resamples=self.resamples, seed=self.seed, examples=self.examples)
        check_not_negative("evaluate", radius=self.radius, mpp=self.mpp)
        for name in ("class_names", "colours", "types"):
            if getattr(self, name) and not self.adapter:
                raise ValueError(
                    f"{name}={getattr(self, name)} is a setting of a data set; give its adapter=… (types of files are "
                    "named by type_names=[…])"
                )

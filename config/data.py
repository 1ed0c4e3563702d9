"""Settings of a data set, which several commands share."""

from __future__ import annotations

from dataclasses import dataclass, field

from config.checks import MISSING, check_choice, check_not_negative


@dataclass
class DataSettings:
    """A data set: where its files are and where its patches go.

    Attributes:
        adapter: which published layout the files have; the names are in dataloader/annotations.
        root: folder of the data set as it was published.
        patches: folder of the patch stores, one `<split>.zarr` each, or of folders `<split>` of `.npy` patches.
        splits: the data set's own splits to extract.
        split_from: split that the validation images are taken from.
        types: what the files hold, where a data set comes with `raw` and with `merged` types: those two, or `auto`
            looks; empty elsewhere.
        mpp: µm/px of the images, where the data set leaves it open; 0 takes what it says.
        class_names: names of the types, background first, where the data set leaves them open.
        colours: of colour-coded masks: [R, G, B] of each type, by its name.
        merge_types: new type of each type of the data set, in order, background first; empty leaves them.
        merged_names: names of the new types, background first.
        num_validation: images of `split_from` that go to validation, whole images, chosen by `seed`.
        train_store: name of the patch store to train on, such as `fold1` where folds are published.
        validation_store: name of the patch store to validate on.
    """

    adapter: str = MISSING
    root: str = MISSING
    patches: str = MISSING
    splits: list[str] = field(default_factory=lambda: ["Train", "Test"])
    split_from: str = "Train"
    num_validation: int = 5
    train_store: str = "train"
    validation_store: str = "validation"
    types: str = ""
    mpp: float = 0.0
    class_names: list[str] = field(default_factory=list)
    colours: dict[str, list[int]] = field(default_factory=dict)
    merge_types: list[int] = field(default_factory=list)
    merged_names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check what no single field can say."""
        check_not_negative("data", num_validation=self.num_validation, mpp=self.mpp)
        check_choice("data.types", self.types, ("", "auto", "merged", "raw"))

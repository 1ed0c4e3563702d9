"""Settings of stain: in training, and of the command that normalises images and slides."""

from __future__ import annotations

from dataclasses import dataclass, field

from config.checks import MISSING, check_choice

METHODS = ("macenko", "vahadane", "reinhard")
STAIN_METHODS = ("none", *METHODS)
STAGES = ("normalise", "hed", "colour")


@dataclass
class StainSettings:
    """What happens to the stain of a training batch, on its device, beside the changes of `augmentation`.

    Attributes:
        method: how each patch is normalised, by the statistics of its whole source image: none, macenko, vahadane
            or reinhard.
        target: the stain that patches are brought to: a JSON file of statistics, an image or a slide; empty for
            the published one.
        hed_scale: largest share by which haematoxylin, eosin and DAB grow or shrink, each sample by its own draw.
        hed_shift: largest optical density of each that is added or taken.
        order: of the stages of a batch: normalise, hed (the jitter above) and colour (hue, saturation, brightness,
            contrast, blur and noise of `augmentation`); colour that is left out is switched off.
    """

    method: str = "none"
    target: str = ""
    hed_scale: float = 0.0
    hed_shift: float = 0.0
    order: list[str] = field(default_factory=lambda: list(STAGES))

    def __post_init__(self) -> None:
        """Check what no single field can say."""
        check_choice("stain.method", self.method, STAIN_METHODS)
        for name in ("hed_scale", "hed_shift"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"stain.{name}={getattr(self, name)} must lie in 0..1")
        for name in self.order:
            check_choice("stain.order", name, STAGES)
        if len(set(self.order)) < len(self.order):
            raise ValueError(f"stain.order={self.order} names a stage twice; name each once at most")
        if self.method != "none" and "normalise" not in self.order:
            raise ValueError(
                f"stain.method={self.method} is left out by stain.order={self.order}; add normalise to it, "
                "or set stain.method=none"
            )
        for name in ("hed_scale", "hed_shift"):
            if getattr(self, name) and "hed" not in self.order:
                raise ValueError(
                    f"stain.{name}={getattr(self, name)} is left out by stain.order={self.order}; add hed to it, "
                    f"or set stain.{name}=0"
                )
        if self.target and self.method == "none":
            raise ValueError(f"stain.target={self.target} needs a method; set stain.method=macenko")


@dataclass
class NormalizeSettings:
    """`normalize_stain.py`: images and slides brought to one stain, with a picture of each before and after.

    Attributes:
        input: an image or slide, or a folder of them.
        output: folder for the results; each image's carry its name.
        method: macenko, vahadane or reinhard.
        target: the stain that images are brought to: a JSON file of statistics, an image or a slide; empty for the
            published one.
        mpp: µm/px of the input's level 0, where the file does not say it or is wrong; 0 trusts the file.
        reader: of slides: auto, image, tiff, openslide or cucim.
        tissue: look for tissue, and fit there, in images of more than 4.7 million px; of smaller ones all is fitted.
        quality: of a slide's JPEG tiles, 1..100; images are written as PNG, without loss.
        overwrite: normalise anew what is there.
    """

    input: str = MISSING
    output: str = MISSING
    method: str = "macenko"
    target: str = ""
    mpp: float = 0.0
    reader: str = "auto"
    tissue: bool = True
    quality: int = 90
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check what no single field can say."""
        check_choice("method", self.method, METHODS)
        check_choice("reader", self.reader, ("auto", "image", "tiff", "openslide", "cucim"))
        if self.mpp < 0:
            raise ValueError(f"mpp={self.mpp} must be 0 or more; leave it out to trust the file")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality={self.quality} must lie in 1..100")

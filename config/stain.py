"""Settings of stain: in training, and of the command that normalises images and slides."""

from __future__ import annotations

from dataclasses import dataclass, field

from config.checks import check_choice

STAIN_METHODS = ("none", "macenko", "vahadane", "reinhard")
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
            contrast, blur and noise of `augmentation`); one that is left out is switched off.
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
        if self.target and self.method == "none":
            raise ValueError(f"stain.target={self.target} needs a method; set stain.method=macenko")

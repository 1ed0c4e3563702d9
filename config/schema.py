"""Every setting of every command: its name, type, unit and default; the YAML groups only choose values."""

from __future__ import annotations

from dataclasses import dataclass, field

from config.checks import MISSING, check_choice, check_not_negative, check_positive
from config.conversion import ConvertSettings
from config.data import DataSettings
from config.doctor import CheckSettings
from config.evaluation import EvaluateSettings
from config.export import ExportSettings
from config.inference import InferSettings
from config.stain import NormalizeSettings, StainSettings
from config.tuning import TuneSettings

__all__ = [
    "AugmentationSettings",
    "CheckSettings",
    "ConvertSettings",
    "DataSettings",
    "EvaluateSettings",
    "ExportSettings",
    "ExtractSettings",
    "InferSettings",
    "LossWeights",
    "ModelSettings",
    "NormalizeSettings",
    "PhaseSettings",
    "StainSettings",
    "TrainSettings",
    "TrainingRun",
    "TuneSettings",
]


@dataclass
class ExtractSettings:
    """`extract_patches.py`: annotated images to patch stores.

    Attributes:
        data: the data set.
        output: folder for the stores; where empty, `data.patches`.
        patch_size: side of a patch in pixels.
        patch_step: distance between neighbouring patches in pixels, at most `patch_size`.
        border: `mirror` reflects the image so that patches cover it all; `valid` stays inside it.
        export_images: write the images of the splits too, as `images/<split>/<name>.png` in the folder for the stores:
            run_infer.py takes image files, which data sets such as PanNuke's arrays do not have.
        seed: seed of the choice of validation images.
    """

    data: DataSettings = field(default_factory=DataSettings)
    output: str = ""
    patch_size: int = 540
    patch_step: int = 256
    border: str = "mirror"
    export_images: bool = False
    seed: int = 10

    def __post_init__(self) -> None:
        """Check what no single field can say."""
        check_choice("border", self.border, ("mirror", "valid"))
        check_positive(patch_size=self.patch_size, patch_step=self.patch_step)
        if self.patch_step > self.patch_size:
            raise ValueError(
                f"patch_step={self.patch_step} is larger than patch_size={self.patch_size} and would leave "
                "gaps; use a step of at most the size"
            )


@dataclass
class ModelSettings:
    """Which network.

    Attributes:
        name: `HoVerNet` (the published network) or `HoVerNetLite`.
        mode: of HoVerNet: `original` (270 → 80) or `fast` (256 → 164).
        has_types: whether nuclei get types; false trains segmentation alone.
        encoder: of HoVerNetLite: resnet18, resnet50, efficientnet_b0 or convnext_tiny.
        num_stages: of HoVerNetLite: how many of the encoder's stages are kept.
        decoder_channels: of HoVerNetLite: channels at strides 2, 4, 8, …
        margin: of HoVerNetLite: pixels by which the output is smaller than the input.
    """

    name: str = MISSING
    mode: str = "fast"
    has_types: bool = True
    encoder: str = "resnet18"
    num_stages: int = 4
    decoder_channels: list[int] = field(default_factory=lambda: [48, 64, 128])
    margin: int = 32


@dataclass
class AugmentationSettings:
    """How training patches are varied; a range of 0 switches its part off.

    Attributes:
        crop: `centre` of the patch, as the reference does, or `random`.
        scale: smallest and largest factor, drawn for each axis.
        shift: largest translation, as a fraction of the patch.
        shear: largest shear in degrees.
        rotation: largest rotation in degrees.
        flip: probability of each of the two flips.
        hue: largest shift, in OpenCV's 180 steps of the circle.
        saturation: largest mix with the grey image (or away from it).
        brightness: largest shift in grey levels.
        contrast: smallest and largest factor about the image's mean.
        degrade: probability that a patch gets one of Gaussian blur, median blur and noise.
        blur_kernels: kernel sizes of both blurs in pixels; 1 leaves the image as it is.
        noise: largest standard deviation of the noise in grey levels.
    """

    crop: str = "centre"
    scale: list[float] = field(default_factory=lambda: [0.8, 1.2])
    shift: float = 0.01
    shear: float = 5.0
    rotation: float = 179.0
    flip: float = 0.5
    hue: float = 8.0
    saturation: float = 0.2
    brightness: float = 26.0
    contrast: list[float] = field(default_factory=lambda: [0.75, 1.25])
    degrade: float = 1.0
    blur_kernels: list[int] = field(default_factory=lambda: [1, 3, 5])
    noise: float = 12.75

    def __post_init__(self) -> None:
        """Check what no single field can say."""
        check_choice("augmentation.crop", self.crop, ("centre", "random"))
        for name in ("scale", "contrast"):
            values = getattr(self, name)
            if len(values) != 2 or not 0 < values[0] <= values[1]:
                raise ValueError(f"augmentation.{name}={values} must be [smallest, largest], both above 0")
        for name, greatest in (
            ("flip", 1),
            ("hue", 90),
            ("saturation", 1),
            ("brightness", 255),
            ("degrade", 1),
        ):
            value = getattr(self, name)
            if not 0 <= value <= greatest:
                raise ValueError(f"augmentation.{name}={value} must lie in 0..{greatest}")
        if not self.blur_kernels or any(size < 1 or size % 2 == 0 for size in self.blur_kernels):
            raise ValueError(
                f"augmentation.blur_kernels={self.blur_kernels} must be odd sizes, such as [1, 3]"
            )


@dataclass
class PhaseSettings:
    """One phase of training, with an optimiser of its own.

    Attributes:
        epochs: passes over the patches.
        batch_size: patches a step, of all processes together: the same whatever their number, each takes its share.
        learning_rate: at the start, after warm-up.
        freeze_encoder: whether the encoder stands still, its batch-norm statistics too.
        schedule: `constant`, `step` (times `step_factor` every `step_epochs`) or `cosine` to zero.
        step_epochs: see `schedule`.
        step_factor: see `schedule`.
        warmup_steps: steps over which the rate rises linearly.
    """

    epochs: int = 50
    batch_size: int = 8
    learning_rate: float = 1e-4
    freeze_encoder: bool = False
    schedule: str = "step"
    step_epochs: int = 25
    step_factor: float = 0.1
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        """Check what no single field can say."""
        check_choice("train.phases.schedule", self.schedule, ("constant", "step", "cosine"))
        check_positive(epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.learning_rate)
        check_positive(step_epochs=self.step_epochs, step_factor=self.step_factor)
        check_not_negative("train.phases", warmup_steps=self.warmup_steps)


@dataclass
class LossWeights:
    """Factors of the terms in the total loss; 0 leaves a term out.

    Attributes:
        np_ce: of the cross-entropy of nuclei.
        np_dice: of the dice loss of nuclei.
        hv_mse: of the squared error of the HV maps.
        hv_msge: of the squared error of their gradients, inside nuclei.
        nc_ce: of the cross-entropy of types.
        nc_dice: of the dice loss of types.
    """

    np_ce: float = 1.0
    np_dice: float = 1.0
    hv_mse: float = 1.0
    hv_msge: float = 1.0
    nc_ce: float = 1.0
    nc_dice: float = 1.0


@dataclass
class TrainSettings:
    """How to train.

    Attributes:
        phases: one after another, each starting from the weights of the one before.
        input_size: side of the network's input in pixels; 0 takes the published size of the mode.
        optimizer: `adam` or `adamw`.
        weight_decay: of the optimiser.
        precision: `fp32`, `bf16` or `fp16` (mixed, weights stay fp32); `auto` takes bf16 where the device has it.
        channels_last: memory layout of images and weights.
        compile: run the network through torch.compile, which takes minutes to begin with; for GPUs, on a CPU it does
            not pay. Needs a C++ compiler.
        checkpoint_gradients: keep less of each block for its gradients and compute it again: less memory, about a fifth
            more time, the same gradients.
        clip_norm: largest norm of all gradients together; 0 does not clip.
        accumulate: batches whose gradients are added up before a step.
        sync_batch_norm: where several processes train (torchrun), whether batch norms see the whole batch, so that
            results do not depend on the number of processes; false lets each normalise its own share, which talks less
            between them and wants shares of 8 patches or more.
        ema_decay: decay of the moving average of weights that is validated and saved as best; 0 for none.
        loss_weights: factor of each term of the loss.
        class_weights: weight of each type in nc_ce, background first; empty for none.
        balance: computes `class_weights` from the pixels of each type in the training store: `inverse` (one over their
            number), `sqrt` (one over its root), `effective` (one over Cui et al.'s effective number); `none` leaves
            `class_weights`.
        sampling: how often patches are drawn: `uniform`, each once an epoch, or `types`, more often those that hold
            rare types; an epoch is as long in either case.
        sampling_gamma: of sampling by types: 0 draws all alike, 1 by the rarity of the types alone.
        focal_gamma: focusing exponent of the cross-entropies; 0 for plain ones.
        legacy: reproduce the reference's targets and HV gradient term, its errors included.
        start_from: checkpoint to start from; what does not fit, such as another type head, starts fresh.
        imagenet: start a lite encoder from ImageNet weights where torch's cache holds them.
        num_workers: processes that read and warp patches, of each process that trains; -1 shares out the CPUs that may
            be used among those that train on a machine, at most 8 each.
        log_every: steps between two log entries; the device is waited for at no other time.
        validate_every: epochs between two validations on whole images.
        early_stop: epochs of a phase without a better PQ after which it ends; 0 for never.
        checkpoint_every: steps between two saves of the state to resume from; 0 saves after each epoch.
        max_steps: steps an epoch at most, for trying things out; 0 for all.
    """

    phases: list[PhaseSettings] = field(default_factory=lambda: [PhaseSettings()])
    input_size: int = 0
    optimizer: str = "adam"
    weight_decay: float = 0.0
    precision: str = "auto"
    channels_last: bool = True
    compile: bool = False
    checkpoint_gradients: bool = False
    clip_norm: float = 0.0
    accumulate: int = 1
    sync_batch_norm: bool = True
    ema_decay: float = 0.0
    loss_weights: LossWeights = field(default_factory=LossWeights)
    class_weights: list[float] = field(default_factory=list)
    balance: str = "none"
    sampling: str = "uniform"
    sampling_gamma: float = 0.85
    focal_gamma: float = 0.0
    legacy: bool = False
    start_from: str = ""
    imagenet: bool = True
    num_workers: int = -1
    log_every: int = 50
    validate_every: int = 1
    early_stop: int = 0
    checkpoint_every: int = 0
    max_steps: int = 0

    def __post_init__(self) -> None:
        """Check what no single field can say."""
        check_choice("train.optimizer", self.optimizer, ("adam", "adamw"))
        check_choice("train.precision", self.precision, ("auto", "fp32", "bf16", "fp16"))
        check_positive(
            accumulate=self.accumulate, log_every=self.log_every, validate_every=self.validate_every
        )
        if not self.phases:
            raise ValueError("train.phases=[] leaves nothing to train; give at least one phase")
        check_not_negative(
            "train",
            clip_norm=self.clip_norm,
            weight_decay=self.weight_decay,
            early_stop=self.early_stop,
            checkpoint_every=self.checkpoint_every,
            max_steps=self.max_steps,
            focal_gamma=self.focal_gamma,
        )
        if self.compile and self.checkpoint_gradients:
            raise ValueError(
                "train.compile=true and train.checkpoint_gradients=true exclude each other: a compiled network chooses "
                "by itself what to compute again; set one of the two to false"
            )
        check_choice("train.balance", self.balance, ("none", "inverse", "sqrt", "effective"))
        check_choice("train.sampling", self.sampling, ("uniform", "types"))
        if not 0 <= self.sampling_gamma <= 1:
            raise ValueError(f"train.sampling_gamma={self.sampling_gamma} must lie in 0..1")
        if self.balance != "none" and self.class_weights:
            raise ValueError(
                f"train.balance={self.balance} computes the weights that train.class_weights={self.class_weights} "
                "gives; drop one of the two"
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(
                f"train.ema_decay={self.ema_decay} must be at least 0 and below 1, such as 0.999"
            )


@dataclass
class TrainingRun:
    """`run_train.py`: patch stores to a trained network.

    Attributes:
        data: the data set.
        model: the network.
        augmentation: how patches are varied.
        stain: how their stain is normalised and varied.
        train: how to train.
        output: folder of the run: checkpoints, TensorBoard logs, resolved settings.
        seed: of weights, order, geometry and colour.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; of several processes (torchrun) each takes the GPU of its number.
        view: write a contact sheet of augmented patches and their targets to the output folder, and stop.
        profile: write to `<output>/profile` where the time of the first steps goes: a table of stages, and a trace of
            some steps for Perfetto or TensorBoard; training goes on.
    """

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    stain: StainSettings = field(default_factory=StainSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    output: str = MISSING
    seed: int = 10
    device: str = "auto"
    view: bool = False
    profile: bool = False

    def __post_init__(self) -> None:
        """Check what no single field can say."""
        check_choice("model.name", self.model.name, ("HoVerNet", "HoVerNetLite"))
        check_choice("model.mode", self.model.mode, ("original", "fast"))
        if not self.model.decoder_channels:
            raise ValueError(
                "model.decoder_channels=[] leaves no decoder; give channels, such as [48, 64, 128]"
            )
        weighs = "train.class_weights" if self.train.class_weights else f"train.balance={self.train.balance}"
        if (self.train.class_weights or self.train.balance != "none") and not self.model.has_types:
            raise ValueError(f"{weighs} weighs types, but model.has_types=false; drop one of the two")

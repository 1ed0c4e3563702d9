"""Settings of the command that uses a network."""

from __future__ import annotations

from dataclasses import dataclass, field

from config.checks import MISSING, check_choice, check_positive
from config.launch import LaunchSettings
from config.triton import TritonSettings


@dataclass
class InferSettings:
    """`run_infer.py`: images and slides to nuclei.

    Attributes:
        input: an image or slide, a folder of them, or a list: `.txt`, one a line, or `.csv` with a column `slide` (and
            perhaps `name`). All may be addresses, such as s3://bucket/slides (docs/addresses.md).
        output: folder or address for the results; each slide's outputs carry its name.
        checkpoint: ours (`.pt`, `.safetensors`), or an official HoVer-Net `.tar` or `.npz`.
        outputs: what to write, by name: json, geojson, qupath, parquet, store, label, overlay, thumb, mask; and of
            images that fit into memory mat, npy, picture.
        mpp: µm/px of the input's level 0, where the file does not say it or is wrong; 0 trusts the file.
        reader: of slides: auto, image, tiff, openslide or cucim.
        tissue: look for tissue, and only there, in slides of 2048² px or more.
        mask: mask image of your own instead, not 0 where to look, or a folder with one for each slide, by name.
        mask_pixel_limit: most pixels of the low-power picture in which tissue is looked for.
        regions: look only there: boxes `x,y,width,height` in level-0 px, joined by `;`, or a QuPath GeoJSON file.
        predictor: what runs the network: `torch`, `compile` (torch.compile), `cudagraphs`, `openvino`, `onnxruntime`
            or `triton` (a server: docs/triton.md); `auto` takes what is fastest on the device of what is
            installed, and says which.
        maps: what the network gives: `full` (float32) or `small` (probabilities as uint8, HV maps as float16: a third
            of the bytes); `auto` is small on a GPU.
        decoder: where maps are decoded: `cpu`, or `device`, where the network runs (on a GPU with CuPy); `auto` takes
            the device where it is a GPU and CuPy is installed.
        window: largest side of the network's input in pixels; 0 tries out two or three sizes on the device, about a
            second each, once for each network, and remembers which costs least.
        published_windows: use the published windows (256 → 164, 270 → 80) instead, for comparison.
        overlap: least pixels by which neighbouring windows overlap; 0 chooses by the network, up to half a
            window, and none with published windows; 1 takes the network's own margin alone.
        batch_size: windows a batch; 0 chooses by device; halved where the device's memory is short.
        region_size: side in pixels of the region that is decoded at once; in effect a whole number of windows' outputs.
        halo: pixels around a region's core that are decoded with it: half the largest nucleus, and 15 that its
            gradients reach.
        read_workers: threads that read; -1 chooses by the CPUs this process may use.
        decode_workers: threads that decode regions; -1 chooses by the CPUs this process may use.
        stain: how each slide is normalised, by a fit on pixels of its own tissue: `auto` as the checkpoint's patches
            were in training; none, macenko, vahadane or reinhard; or the file of a target: JSON of statistics, an
            image or a slide.
        normalisation: of the HV gradients: `window_free`, or `reference` (min–max over the region).
        nuclei_threshold: probability from which a pixel belongs to a nucleus; 0 takes what tune.py found for the
            checkpoint, else 0.5.
        marker_threshold: gradient strength, 0..1, below which a nuclear pixel marks a nucleus's inside; 0 takes
            what tune.py found, else 0.4.
        min_size: pixels of the smallest blob that is taken for nuclei; 0 takes what tune.py found, else 10.
        min_areas: smallest nucleus of each type in pixels, background first; empty takes what tune.py found, else
            keeps all.
        tta: test-time augmentation, the mean of several views of each window: `none`, `flips` (4 views), `turns` (the
            4 quarter turns) or `all` (8); the time grows as many times.
        precision: `fp32`, `bf16` or `fp16`; `auto` takes bf16 where the device is fast with it.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; several, joined by commas, or `all`, every GPU of this machine, share
            the windows of each slide.
        launch: where slides are worked on: `launch=ray` and `launch=slurm` share them among workers.
        triton: which server, where `predictor=triton`.
        dots: mark centroids in the pictures.
        profile: write to `<output>/profile` where the time goes: a table of stages, and a trace of the first windows
            for Perfetto or TensorBoard.
        overwrite: predict slides anew whose outputs are there.
    """

    input: str = MISSING
    output: str = MISSING
    checkpoint: str = MISSING
    outputs: list[str] = field(default_factory=lambda: ["json", "geojson", "thumb", "mask"])
    mpp: float = 0.0
    reader: str = "auto"
    tissue: bool = True
    mask: str = ""
    mask_pixel_limit: int = 1024 * 1024
    regions: str = ""
    predictor: str = "auto"
    maps: str = "auto"
    decoder: str = "auto"
    window: int = 0
    published_windows: bool = False
    overlap: int = 0
    batch_size: int = 0
    region_size: int = 2048
    halo: int = 96
    read_workers: int = -1
    decode_workers: int = -1
    stain: str = "auto"
    normalisation: str = "window_free"
    nuclei_threshold: float = 0.0
    marker_threshold: float = 0.0
    min_size: int = 0
    min_areas: list[int] = field(default_factory=list)
    tta: str = "none"
    precision: str = "auto"
    device: str = "auto"
    launch: LaunchSettings = field(default_factory=LaunchSettings)
    triton: TritonSettings = field(default_factory=TritonSettings)
    dots: bool = False
    profile: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check what no single field can say."""
        check_choice("normalisation", self.normalisation, ("window_free", "reference"))
        check_choice("tta", self.tta, ("none", "flips", "turns", "all"))
        check_choice("precision", self.precision, ("auto", "fp32", "bf16", "fp16"))
        check_choice("maps", self.maps, ("auto", "full", "small"))
        check_choice("decoder", self.decoder, ("auto", "cpu", "device"))
        check_choice("reader", self.reader, ("auto", "image", "tiff", "openslide", "cucim"))
        check_positive(region_size=self.region_size, mask_pixel_limit=self.mask_pixel_limit)
        self.launch.check_device(self.device)
        if self.tta != "none" and (self.decoder == "device" or self.maps == "small"):
            raise ValueError(
                f"decoder={self.decoder} maps={self.maps} contradict tta={self.tta}, whose views are averaged on the "
                "host and in full; leave them out, or set tta=none"
            )
        if not self.outputs:
            raise ValueError("outputs=[] leaves nothing to write; name at least one, such as outputs=[json]")
        for name in ("mpp", "halo", "window", "overlap", "batch_size", "min_size"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"{name}={getattr(self, name)} must be 0 or more; leave it out for the default"
                )
        for name in ("nuclei_threshold", "marker_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"{name}={getattr(self, name)} must lie in 0..1; leave it out for the default"
                )
        for name in ("read_workers", "decode_workers"):
            if getattr(self, name) == 0 or getattr(self, name) < -1:
                raise ValueError(
                    f"{name}={getattr(self, name)} must be 1 or more, or -1 to choose by the CPUs"
                )
        if self.published_windows and self.window:
            raise ValueError(f"window={self.window} contradicts published_windows=true; give one of the two")

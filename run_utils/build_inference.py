"""Where the parts of inference are joined, as `build.py` joins those of training: predictor and plan come out."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch

from config.schema import InferSettings
from config.triton import TritonSettings
from dataloader.lattice import lay_tiles
from dataloader.memory import keep_large_blocks
from dataloader.stain.arrays import has_cupy
from models.hovernet.checkpoint import Network, load_checkpoint
from models.hovernet.device_decode import decode_on_device
from models.hovernet.fused import fuse
from models.hovernet.lite import HoVerNetLite
from models.hovernet.postprocess import decode
from run_utils.cache import cache_dir
from run_utils.devices import (
    check_compiler,
    describe_device,
    free_memory,
    resolve_devices,
    resolve_precision,
    usable_cpus,
)
from run_utils.inference.augmented import VIEWS, AugmentedPredictor
from run_utils.inference.engines.predictor import EnginePredictor
from run_utils.inference.engines.process import missing_packages
from run_utils.inference.gpu_threads import GPU_THREADS
from run_utils.inference.monitor import Monitor
from run_utils.inference.plan import CPU_WINDOW, GPU_WINDOW, DecodeOptions, Plan
from run_utils.inference.predictors import OverlappingPredictor, Predictor, PredictorGroup
from run_utils.inference.torch_predictor import CudaGraphs, Run, TorchPredictor
from run_utils.inference.triton_predictor import TritonPredictor, find_server
from run_utils.inference.window import choose_window
from run_utils.provenance import describe_environment

logger = logging.getLogger(__name__)

# px by network; others take their margin. The padding of the shipped one reaches 144 px into a window, but from 80 px
# on, half of 160, it changes fewer nuclei than bf16 does (IoU > .9 for 99.6 % against 99.0 %).
DEFAULT_OVERLAP: dict[type, int] = {HoVerNetLite: 160}
# px, to choose from
WINDOWS = {"cpu": (512, 768, 1024, 1192, CPU_WINDOW), "cuda": (512, 1024, 1536, GPU_WINDOW)}
NUM_TRIED = 3  # the largest that fit
CPU_MEMORY = 17 * 2**28  # bytes of features on a CPU, 4.25 GiB, and no more than half of what is free
ONNXRUNTIME_FEATURES = 4  # times those of bf16: it computes in float32, and unfolds windows
GPU_MEMORY_SHARE = 0.6  # of a GPU's free memory for features
MAX_GPU_BATCH = 8
MAX_READ_WORKERS = {"cuda": 8, "cpu": 4}
# each holds a region's maps; on a CPU the network takes the time, on a GPU decoders there wait for one another
MAX_DECODE_WORKERS = {"cuda": 8, "device": 2, "cpu": 2}
TUNED_SETTINGS = ("nuclei_threshold", "marker_threshold", "min_size", "min_areas")


class Engine(NamedTuple):
    """What a predictor is to be like.

    Attributes:
        device: where it runs.
        dtype: number format of the computation.
        is_small: give uint8 probabilities and float16 HV maps.
        stays: leave the maps on the device.
        monitor: gets the seconds of copying and of the network; None for nobody.
        server: that runs the network, where one does.
    """

    device: torch.device
    dtype: torch.dtype
    is_small: bool = False
    stays: bool = False
    monitor: Monitor | None = None
    server: TritonSettings | None = None


def _torch(
    network: Network, engine: Engine, wrap: Callable[[torch.nn.Module], Run] | None = None
) -> Predictor:
    is_gpu = engine.device.type == "cuda"
    torch.backends.cudnn.benchmark = is_gpu  # windows are of one size: fast convolutions are worth finding
    torch.backends.cudnn.allow_tf32 = engine.dtype != torch.float32  # fp32 is not to mean ten bits
    fused = fuse(network, merge_decoders=is_gpu).to(memory_format=torch.channels_last)
    return TorchPredictor(
        fused,
        engine.device,
        engine.dtype,
        is_small=engine.is_small,
        stays=engine.stays,
        wrap=wrap,
        monitor=engine.monitor,
    )


def _compiled(network: Network, engine: Engine) -> Predictor:
    if engine.device.type == "cpu":
        check_compiler("predictor=compile", "predictor=torch")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "inductor"))
    options = {"freezing": True} if engine.device.type == "cpu" else None
    return _torch(network, engine, functools.partial(torch.compile, dynamic=False, options=options))


def _cuda_graphs(network: Network, engine: Engine) -> Predictor:
    if engine.device.type != "cuda":
        raise ValueError(f"predictor=cudagraphs needs a GPU, not device={engine.device}; use predictor=torch")
    return _torch(network, engine, CudaGraphs)


def _external(name: str, network: Network, engine: Engine) -> Predictor:
    if engine.device.type != "cpu":
        raise ValueError(f"predictor={name} runs on the CPU, not on {engine.device}; set device=cpu")
    if engine.is_small:
        raise ValueError(f"maps=small needs a predictor of torch, not predictor={name}; leave maps= out")
    return EnginePredictor(fuse(network), name, engine.dtype, cache_dir() / "engines", monitor=engine.monitor)


def _triton(network: Network, engine: Engine) -> Predictor:
    return TritonPredictor(network, engine.server or TritonSettings(), monitor=engine.monitor)


PREDICTORS: dict[str, Callable[[Network, Engine], Predictor]] = {
    "torch": _torch,
    "compile": _compiled,
    "cudagraphs": _cuda_graphs,
    "openvino": functools.partial(_external, "openvino"),
    "onnxruntime": functools.partial(_external, "onnxruntime"),
    "triton": _triton,
}


def choose_predictor(settings: InferSettings, device: torch.device) -> str:
    """Return a row of ``PREDICTORS``: the one that is named, or for `auto` what is fastest on the device.

    Raises:
        ValueError: for another name.
    """
    name = settings.predictor
    if name == "auto":
        has_engine = device.type == "cpu" and not missing_packages("openvino") and settings.maps != "small"
        return "openvino" if has_engine else "torch"
    if name not in PREDICTORS:
        raise ValueError(f"predictor={name!r} is not known; use auto or one of: {', '.join(PREDICTORS)}")
    return name


def build_predictor(settings: InferSettings, monitor: Monitor | None = None) -> Predictor:
    """Return what turns tiles into maps, from a checkpoint, on the device of choice."""
    keep_large_blocks()  # of a network's features and of a region's maps
    members = [_build_member(settings, device, monitor) for device in _devices(settings)]
    return members[0] if len(members) == 1 else PredictorGroup(members, _num_requests(members[0].device))


def _build_member(settings: InferSettings, device: torch.device, monitor: Monitor | None) -> Predictor:
    """Return the predictor of one device."""
    network = load_checkpoint(settings.checkpoint)
    name = choose_predictor(settings, device)
    engine = Engine(
        device,
        resolve_precision(settings.precision, device),
        is_small=_asks_small(settings, device),
        stays=_decodes_on_device(settings, device),
        monitor=monitor,
        server=settings.triton,
    )
    if engine.stays and device.type == "cuda" and not has_cupy():
        raise ValueError(
            "decoder=device needs CuPy, which does not work here: install the extra gpu (CUDA 12) or gpu13, or set "
            "decoder=cpu"
        )
    predictor = PREDICTORS[name](network, engine)
    if (server := find_server(predictor)) is not None:
        server.check(settings)
    logger.info("predictor=%s, %s on %s", name, _computed_in(settings, predictor), describe_device(device))
    if settings.tta != "none":
        predictor = AugmentedPredictor(predictor, VIEWS[settings.tta])
    overlap = settings.overlap or _default_overlap(settings, network, predictor)
    return OverlappingPredictor(predictor, overlap) if overlap else predictor


def _devices(settings: InferSettings) -> Sequence[torch.device]:
    """Return where predictors work on this machine; ValueError where what a Triton server decides is set here."""
    if settings.predictor != "triton":
        return resolve_devices(settings.device)
    for name, allowed in {"device": "cpu", "precision": "auto", "maps": "auto"}.items():
        value = getattr(settings, name)
        if value not in ("auto", allowed):
            raise ValueError(
                f"{name}={value} is for the Triton server to decide, by its export; leave it out"
            )
    return [torch.device("cpu")]


def _computed_in(settings: InferSettings, predictor: Predictor) -> str:
    """Return the number format that is computed in, which is not always what was asked of an engine."""
    if (server := find_server(predictor)) is not None:
        return server.served.precision
    device = predictor.device
    name, dtype = choose_predictor(settings, device), resolve_precision(settings.precision, device)
    is_full = name == "onnxruntime" or (name == "openvino" and dtype == torch.float16)
    return str(torch.float32 if is_full else dtype).removeprefix("torch.")


def _is_small(settings: InferSettings, predictor: Predictor) -> bool:
    """Return whether maps are small."""
    server = find_server(predictor)
    return _asks_small(settings, predictor.device) if server is None else server.served.is_small


def _asks_small(settings: InferSettings, device: torch.device) -> bool:
    """Return whether maps are to be small: on a GPU, whose bus is slow, unless several views are to be averaged."""
    if settings.maps == "auto":
        return device.type == "cuda" and settings.tta == "none"
    return settings.maps == "small"


def _decodes_on_device(settings: InferSettings, device: torch.device) -> bool:
    if settings.decoder == "auto":
        return device.type == "cuda" and settings.tta == "none" and has_cupy()
    return settings.decoder == "device"


def _default_overlap(settings: InferSettings, network: Network, predictor: Predictor) -> int:
    """Return by how many px windows overlap where the settings leave it open; 0 for the network's margin.

    At most half a window, rounded down to whole strides of the network: small windows stay valid.
    """
    if settings.published_windows:
        return 0
    geometry = network.geometry
    server = find_server(predictor)
    window = settings.window or (default_window(predictor.device) if server is None else server.served.window)
    stride = 2 * geometry.multiple  # on both sides
    room = max(window // 2 - geometry.margin, 0) // stride * stride
    return min(DEFAULT_OVERLAP.get(type(network), 0), geometry.margin + room)


def default_window(device: torch.device) -> int:
    """Return the largest side in pixels that windows have on a device unless a setting says otherwise."""
    return WINDOWS[_kind(device)][-1]


def build_plan(settings: InferSettings, predictor: Predictor) -> Plan:
    """Return how images are cut up and worked on, sized to device and CPUs where the settings leave it open."""
    kind = _kind(predictor.device)
    decoding = _decoding(settings, predictor)
    is_on_device = _decodes_on_device(settings, predictor.device)
    windows, is_exact = _windows_to_try(settings, predictor), _is_exact(settings, predictor)
    for window in windows:  # what does not fit network or overlap is refused before a slide is opened
        lay_tiles((window, window), predictor.geometry, window, is_exact=is_exact)
    batch_size = settings.batch_size or _default_batch(settings, predictor, windows[-1])
    return Plan(
        window=_choose_window(settings, predictor, windows, batch_size),
        batch_size=batch_size,
        region_size=settings.region_size,
        halo=settings.halo,
        is_exact=is_exact,
        decode=decode_on_device if is_on_device else decode,
        decoding=cast(
            DecodeOptions, {name: value for name, value in decoding.items() if name != "min_areas"}
        ),
        min_areas=decoding.get("min_areas", ()),
        read_workers=_num_workers(settings.read_workers, MAX_READ_WORKERS[kind]),
        predict_workers=_num_predict_workers(settings, predictor.device),
        decode_workers=_num_workers(
            settings.decode_workers, MAX_DECODE_WORKERS["device" if is_on_device else kind]
        ),
    )


def resolved_facts(settings: InferSettings, predictor: Predictor, plan: Plan) -> dict[str, object]:
    """Return what settings left open has become on this machine: half a slide must not be done another way."""
    device = predictor.device
    return {
        "device": device.type,
        "predictor": choose_predictor(settings, device),
        "precision": _computed_in(settings, predictor),
        "is_small": _is_small(settings, predictor),
        "decoder": plan.decode.__name__,
        "window": plan.window,
        "margin": predictor.geometry.margin,
        "commit": describe_environment()["commit"],
    }


def _num_predict_workers(settings: InferSettings, device: torch.device) -> int:
    if settings.predictor == "triton":
        return settings.triton.requests
    return len(_devices(settings)) * _num_requests(device)


def _num_requests(device: torch.device) -> int:
    """Return how many batches a predictor on a device is given at once."""
    return GPU_THREADS if device.type == "cuda" else 1


def _kind(device: torch.device) -> str:
    return "cuda" if device.type == "cuda" else "cpu"


def _windows_to_try(settings: InferSettings, predictor: Predictor) -> Sequence[int]:
    """Return the sides of windows that come into question, in pixels, ascending: one where a setting says which."""
    if settings.published_windows:
        return (predictor.geometry.published,)
    if settings.window:
        return (settings.window,)
    if (server := find_server(predictor)) is not None:
        return (server.served.window,)
    affordable = (
        int((_memory(settings, predictor.device) / _bytes_a_pixel(settings, predictor)) ** 0.5) // 32 * 32
    )
    fitting = [window for window in WINDOWS[_kind(predictor.device)] if window <= affordable]
    if not fitting:
        return (max(affordable, predictor.geometry.smallest),)
    is_made_for_one_size = choose_predictor(settings, predictor.device) in ("compile", "cudagraphs")
    return fitting[-1:] if is_made_for_one_size else fitting[-NUM_TRIED:]


def _is_exact(settings: InferSettings, predictor: Predictor) -> bool:
    """Return whether all windows must have exactly the plan's size, however small an image is."""
    server = find_server(predictor)
    return settings.published_windows or (server is not None and server.served.is_fixed)


def _choose_window(
    settings: InferSettings, predictor: Predictor, windows: Sequence[int], batch_size: int
) -> int:
    device = predictor.device
    facts = {
        "device": describe_device(device),
        "predictor": choose_predictor(settings, device),
        "precision": _computed_in(settings, predictor),
        "tta": settings.tta,
        "network": predictor.geometry.name,
        "margin": predictor.geometry.margin,
        "torch": torch.__version__,
    }
    return choose_window(predictor, windows, batch_size=batch_size, facts=facts, folder=cache_dir())


def _memory(settings: InferSettings, device: torch.device) -> int:
    """Return the bytes that features may take."""
    if device.type == "cuda":
        own = min(settings.launch.gpus, 1.0) if settings.launch.gpus > 0 else 1.0  # below 1 workers share it
        return int(own * GPU_MEMORY_SHARE * free_memory(device) / GPU_THREADS)
    return min(CPU_MEMORY, free_memory(device) // 2)


def _bytes_a_pixel(settings: InferSettings, predictor: Predictor) -> int:
    if choose_predictor(settings, predictor.device) == "onnxruntime":
        return ONNXRUNTIME_FEATURES * predictor.geometry.feature_bytes
    is_full = resolve_precision(settings.precision, predictor.device) == torch.float32
    return max(predictor.geometry.feature_bytes, 1) * (2 if is_full else 1)


def _default_batch(settings: InferSettings, predictor: Predictor, window: int) -> int:
    """Return how many windows a device takes at once: on a CPU one is fastest; a GPU is filled, not crammed."""
    if predictor.device.type != "cuda":
        return 1
    affordable = _memory(settings, predictor.device) // (_bytes_a_pixel(settings, predictor) * window**2)
    return min(max(affordable, 1), MAX_GPU_BATCH)


def _decoding(settings: InferSettings, predictor: Predictor) -> dict[str, Any]:
    """Return how maps are decoded: as the settings say, else as `tune.py` found best for the checkpoint."""
    chosen = {name: getattr(settings, name) for name in TUNED_SETTINGS}
    tuned = predictor.facts.notes.get("decoding", {})
    if tuned.get("normalisation") != settings.normalisation:
        tuned = {}
    given = {name: value for name, value in chosen.items() if value}
    return {**tuned, **given, "normalisation": settings.normalisation}


def _num_workers(setting: int, most: int) -> int:
    """Return how many threads a stage gets: what the setting says, or one a CPU up to `most`."""
    return min(usable_cpus(), most) if setting < 0 else setting

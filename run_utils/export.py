"""One network to a file that other programs run, checked with the program itself: what export_model.py runs."""

from __future__ import annotations

import copy
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from config.export import ExportSettings, TritonExportSettings
from dataloader.slides import open_slide
from models.hovernet.channels import FULL_LEVEL
from models.hovernet.checkpoint import Network, load_checkpoint
from models.hovernet.fused import fuse
from models.hovernet.probabilities import ProbabilityNetwork
from run_utils.devices import usable_cpus
from run_utils.inference.engines.graph import exporting, output_names, trace, write_onnx
from run_utils.inference.engines.process import EngineProcess, check_installed, environment, python_module
from run_utils.inference.triton_repository import digest_network, repository_files, write_config

FACTS = "hovernet"  # the facts' name in each format
SAMPLE = Path(__file__).parents[1] / "samples" / "CMU-1-Small-Region.svs"
CHECKED = ((2, 96, 96), (1, 160, 224))  # windows, and (h, w) of their maps in pixels, or a little more
TOLERANCE = 1e-4  # of probabilities and HV maps
# of small maps: a probability that lies between two levels may become either
SMALL_TOLERANCE = 1.02 / FULL_LEVEL
ROUNDING_FACTOR = 4  # times torch's own rounding, where float32 is coarser than that for a network
FAILURE = 1  # exit status

Write = Callable[[torch.jit.ScriptModule, Network, str, Path], None]
Run = Callable[[np.ndarray, Sequence[Sequence[int]]], Sequence[np.ndarray]]


class Format(NamedTuple):
    """A format to write.

    Attributes:
        name: for the summary.
        write: writes a trace of a network and its facts.
        engine: runs it for the check; None for torch itself.
        suffixes: of its files, the network's own, to be written last, as the last.
        is_small: whether it gives uint8 probabilities and float16 HV maps.
    """

    name: str
    write: Write
    engine: str | None
    suffixes: tuple[str, ...]
    is_small: bool = False


def export(settings: ExportSettings) -> int:
    """Write a network, run what was written, and print by how much its maps differ from torch's.

    Returns:
        the exit status: 0, or 1 where they differ by more than rounding explains; then nothing is written.

    Raises:
        FileNotFoundError: where there is no such checkpoint.
        ValueError: where the output exists, or needs what is not installed.
    """
    network = load_checkpoint(settings.checkpoint)
    chosen, folder, names = _choose(settings, network)
    files = [folder / name for name in names]
    existing = [path for path in files if path.exists()]
    if existing and not settings.overwrite:
        raise ValueError(f"output={existing[0]} exists; give another name, or overwrite=true to replace it")
    if chosen.engine is not None:
        check_installed(chosen.engine, f"output={settings.output}")
    parent = Path(settings.output).parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(".tmp", f".{Path(settings.output).name}.", parent) as temporary_dir:
        written = [Path(temporary_dir) / name for name in names]
        written[-1].parent.mkdir(exist_ok=True)
        traced = trace(fuse(network), is_small=chosen.is_small)
        chosen.write(traced, network, describe_network(network), written[-1])
        differences = _compare(network, written[-1], chosen)
        limits = _find_limits(network, differences, is_small=chosen.is_small)
        is_same = all(difference <= limits[name] for name, difference in differences.items())
        for temporary, path in zip(written, files, strict=True):
            if is_same:
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary.replace(path)
    rows = _summarise(network, chosen, differences, limits)
    rows["written"] = ", ".join(map(str, files)) if is_same else "nothing: what was there is as it was"
    sys.stdout.write("".join(f"{name:<8} {value}\n" for name, value in rows.items()))
    return 0 if is_same else FAILURE


def _choose(settings: ExportSettings, network: Network) -> tuple[Format, Path, list[str]]:
    """Return the format, the folder of its files and their names there, the network's own as the last."""
    output = Path(settings.output)
    if settings.to == "triton":
        write = partial(_write_repository, settings.triton)
        chosen = Format("Triton", write, "onnxruntime", (), is_small=settings.triton.is_small)
        return chosen, output / settings.triton.model, repository_files(network, settings.triton)
    chosen = FORMATS[output.suffix]
    return chosen, output.parent, [output.with_suffix(suffix).name for suffix in chosen.suffixes]


def describe_network(network: Network) -> str:
    """Return what goes with an exported network, as JSON: types, µm/px, geometry, arguments, notes and digest."""
    facts = network.facts
    types = None if facts.types is None else [[name, list(colour)] for name, colour in facts.types]
    content = {
        "network": type(network).__name__,
        "arguments": network.arguments,
        "geometry": dataclasses.asdict(network.geometry),
        "num_types": network.num_types,
        "types": types,
        "mpp": facts.mpp,
        "notes": facts.notes,
        "digest": digest_network(network),
    }
    return json.dumps(content, default=str)


def _write_torchscript(traced: torch.jit.ScriptModule, network: Network, facts: str, path: Path) -> None:
    with exporting():
        torch.jit.save(traced, str(path), _extra_files={FACTS: facts.encode()})


def _write_onnx(traced: torch.jit.ScriptModule, network: Network, facts: str, path: Path) -> None:
    import onnx

    write_onnx(traced, network, path)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {FACTS: facts})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _write_repository(
    settings: TritonExportSettings, traced: torch.jit.ScriptModule, network: Network, facts: str, path: Path
) -> None:
    _write_onnx(traced, network, facts, path)
    write_config(network, json.loads(facts), settings, path)


def _write_openvino(traced: torch.jit.ScriptModule, network: Network, facts: str, path: Path) -> None:
    plain = path.with_suffix(".onnx")
    write_onnx(traced, network, plain)
    result = subprocess.run(
        [*python_module("openvino_engine"), str(plain), str(path)],
        input=facts, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if result.returncode:
        raise RuntimeError(f"openvino could not convert the network: {result.stderr.strip()[-400:]}")


FORMATS = {
    ".onnx": Format("ONNX", _write_onnx, "onnxruntime", (".onnx",)),
    ".xml": Format("OpenVINO", _write_openvino, "openvino", (".bin", ".xml")),
    ".ts": Format("TorchScript", _write_torchscript, None, (".ts",)),
}


def _compare(network: Network, path: Path, chosen: Format) -> dict[str, float]:
    """Return the largest difference of each map between a written file and the network, on real tissue."""
    if chosen.engine is None:
        with exporting():
            loaded = torch.jit.load(path)
        return _differences(
            network, lambda tiles, shapes: [m.numpy() for m in loaded(torch.as_tensor(tiles))]
        )
    process = EngineProcess(chosen.engine, path, num_threads=usable_cpus())
    try:
        return _differences(network, process.run, is_small=chosen.is_small)
    finally:
        process.close()


def _differences(network: Network, run: Run, *, is_small: bool = False) -> dict[str, float]:
    whole = ProbabilityNetwork(network, is_small=is_small).eval()
    scale = {name: 1.0 if name == "hv" or not is_small else FULL_LEVEL for name in output_names(network)}
    largest: dict[str, float] = {}
    for tiles in _sample_tiles(network):
        expected = _run_torch(whole, tiles)
        found = run(tiles, [maps.shape for maps in expected])
        for name, one, other in zip(output_names(network), found, expected, strict=True):
            difference = np.abs(one - other.astype(one.dtype)).max() / scale[name]
            largest[name] = float(np.maximum(difference, largest.get(name, 0)))  # nan stays
    return largest


def _find_limits(network: Network, differences: dict[str, float], *, is_small: bool) -> dict[str, float]:
    """Return how much each map may differ: TOLERANCE, and more where torch in float32 is that far from float64."""
    if is_small:
        return dict.fromkeys(differences, SMALL_TOLERANCE)
    if all(difference <= TOLERANCE for difference in differences.values()):
        return dict.fromkeys(differences, TOLERANCE)
    exact = ProbabilityNetwork(copy.deepcopy(network).double()).eval()
    rounding = _differences(network, lambda tiles, _: _run_torch(exact, tiles))
    return {name: max(TOLERANCE, ROUNDING_FACTOR * error) for name, error in rounding.items()}


def _run_torch(whole: torch.nn.Module, tiles: np.ndarray) -> list[np.ndarray]:
    with torch.inference_mode():
        return [maps.numpy() for maps in whole(torch.as_tensor(tiles))]


def _sample_tiles(network: Network) -> list[np.ndarray]:
    """Return batches of windows of the sample slide, each of another size."""
    size_for = network.geometry.input_size_for
    tiles = []
    with open_slide(SAMPLE) as slide:
        top, left = (side // 2 for side in slide.shape_level0)  # tissue from there on
        for count, *sides in CHECKED:
            height, width = (size_for(side) for side in sides)
            rows = [top + index * height for index in range(count)]
            boxes = [(row, left, row + height, left + width) for row in rows]
            tiles.append(np.stack([slide.read(box) for box in boxes]))
    return tiles


def _summarise(
    network: Network, chosen: Format, differences: dict[str, float], limits: dict[str, float]
) -> dict[str, str]:
    geometry = network.geometry
    return {
        "network": geometry.name,
        "format": chosen.name,
        "sizes": f"H and W from {geometry.smallest} px, {geometry.remainder} when divided by {geometry.multiple}; "
        f"maps are {geometry.margin} px smaller",
        "differs": f"from torch by at most {_listed(differences)}; allowed {_listed(limits)}",
    }


def _listed(numbers: dict[str, float]) -> str:
    return ", ".join(f"{name} {number:.1e}" for name, number in numbers.items())

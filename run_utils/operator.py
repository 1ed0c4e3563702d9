"""The nuclei segmentation operator of Clara Deploy (10.32), as a thin face on the pipeline of `run_infer.py`.

``python -m run_utils.operator segmentation`` reads a folder with one slide and ``config_render.json`` and writes
``image.tif`` (the slide with its nuclei outlined, a tiled pyramid), ``config.meta`` and ``config_render.json``.
Where ``NVIDIA_CLARA_TRTISURI`` names a Triton server, the network runs there, under the name of the model.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path

from config.schema import InferSettings
from config.triton import TritonSettings
from dataloader.slides import open_slide
from run_utils.devices import usable_cpus
from run_utils.files import replacing
from run_utils.inference.batch_run import infer_all
from run_utils.inference.triton_client import ADDRESS_VARIABLE
from run_utils.outputs import output_path

SLIDE_EXTENSIONS = (".svs", ".tif", ".tiff")
CHECKPOINT_EXTENSIONS = (".pt", ".tar")
SAMPLES_DIR = Path(__file__).resolve().parents[1] / "samples"
RENDER_CONFIG = "config_render.json"
IMAGE, METADATA, WORK_DIR = "image.tif", "config.meta", "nuclei"
GRPC_PORT = ":8001"  # Triton's own choice; all others speak HTTP, unless the address says grpc://
FAILURE, USAGE_ERROR, INTERRUPTED = 1, 2, 130
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def main(arguments: list[str] | None = None) -> int:
    """Run the operator.

    Args:
        arguments: of the command line; None takes the process's.

    Returns:
        exit status: 0 done, 1 the slide failed, 2 arguments or input cannot be used.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=options.debug_level, format="%(asctime)s %(levelname)s %(message)s")
    try:
        return segment(options)
    except KeyboardInterrupt:
        sys.stderr.write("operator: interrupted; start the same command again to go on\n")
        return INTERRUPTED
    except (ValueError, OSError) as error:
        sys.stderr.write(f"operator: {error}\n")
        return USAGE_ERROR


def segment(options: argparse.Namespace) -> int:
    """Load, filter and stitch at once: one slide in, its overlay and the Render Server's files out.

    Raises:
        FileNotFoundError: the slide, the render configuration or the model is not there.
        ValueError: several slides, or a render configuration that is not JSON.
    """
    slide_path = _find_slide(options.input_path)
    render_config = _read_render_config(options.input_path)
    work_dir = options.output_path / WORK_DIR
    model_path = _find_model(options.model_name, options.config_path)
    server = os.environ.get(ADDRESS_VARIABLE, "")
    settings = InferSettings(
        input=str(slide_path),
        output=str(work_dir),
        checkpoint=str(model_path),
        predictor="triton" if server else "auto",
        triton=TritonSettings(server, "grpc" if server.endswith(GRPC_PORT) else "http", model_path.stem),
        outputs=["overlay", "geojson"],
        window=options.tile_size,
        overlap=options.overlap,
        mask_pixel_limit=options.mask_pixel_count_limit,
        read_workers=options.num_workers,
        decode_workers=options.num_workers,
        overwrite=True,  # each run of the operator makes its outputs anew; one that was killed goes on
    )
    status = infer_all(settings)
    overlay = output_path(work_dir, slide_path.stem, "overlay")
    if status or not overlay.exists():
        sys.stderr.write(f"operator: {slide_path} gave no image; {work_dir / 'run.json'} says why\n")
        return FAILURE
    image_path = options.output_path / IMAGE
    overlay.replace(image_path)
    _write_json(options.output_path / METADATA, _describe(image_path, slide_path))
    _write_json(options.output_path / RENDER_CONFIG, render_config)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m run_utils.operator", description=__doc__)
    parser.add_argument("command", choices=["segmentation"], help="what to do: all operations at once")
    parser.add_argument(
        "-d", "--debug-level", default="INFO", type=str.upper, choices=LEVELS, help="of messages"
    )
    parser.add_argument("--input-path", type=Path, default=Path("/input"), help="folder of the slide")
    parser.add_argument("--output-path", type=Path, default=Path("/output"), help="folder for the results")
    parser.add_argument("--config-path", type=Path, default=Path("/config"), help="folder with models")
    parser.add_argument("-w", "--num-workers", type=_positive, default=usable_cpus(), help="threads a stage")
    parser.add_argument(
        "--mask-pixel-count-limit", type=_positive, default=1024 * 1024, help="pixels of the mask"
    )
    parser.add_argument(
        "-t", "--tile-size", type=_positive, default=256, help="side of the network's input, px"
    )
    parser.add_argument(
        "-m",
        "--model-name",
        default="hovernet_lite_consep",
        help="a checkpoint, or its name in the config folder or in samples/; on a Triton server, the model's name too",
    )
    parser.add_argument(
        "-o",
        "--overlap",
        type=int,
        default=0,
        help="least px by which tiles overlap; 0: chosen by the network",
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} must be a number above 0")
    return int(text)


def _find_slide(folder: Path) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(f"--input-path {folder} is not a folder; give one with a slide in it")
    slides = sorted(path for path in folder.iterdir() if path.suffix.lower() in SLIDE_EXTENSIONS)
    if not slides:
        raise FileNotFoundError(f"--input-path {folder} holds no slide ({', '.join(SLIDE_EXTENSIONS)})")
    if len(slides) > 1:
        names = ", ".join(path.name for path in slides)
        raise ValueError(f"--input-path {folder} holds {len(slides)} slides ({names}); leave one")
    return slides[0]


def _read_render_config(folder: Path) -> object:
    path = folder / RENDER_CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the Render Server's configuration has to lie there")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def _find_model(name: str, config_dir: Path) -> Path:
    candidates = [Path(name)] + [
        folder / f"{name}{extension}"
        for folder in (config_dir, SAMPLES_DIR)
        for extension in CHECKPOINT_EXTENSIONS
    ]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        places = ", ".join(str(path) for path in candidates)
        raise FileNotFoundError(f"--model-name {name} was not found; looked for {places}")
    return found


def _describe(image_path: Path, slide_path: Path) -> dict[str, object]:
    """Return what a viewer needs to know of the image; NVIDIA's own layout of this file is not public."""
    with open_slide(image_path) as image:
        return {
            "name": slide_path.stem,
            "image": IMAGE,
            "source": slide_path.name,
            "um_per_pixel": image.mpp,
            "levels": [{"height": level.shape[0], "width": level.shape[1]} for level in image.levels],
            "settings": RENDER_CONFIG,
        }


def _write_json(path: Path, content: object) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

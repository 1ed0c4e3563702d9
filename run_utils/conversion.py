"""One checkpoint to another format: what convert_checkpoint.py runs."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from config.conversion import ConvertSettings
from models.hovernet.conversion import MONAI, OFFICIAL, OURS, Imported, export_checkpoint, import_checkpoint
from models.hovernet.facts import ModelFacts
from models.hovernet.foreign_keys import MONAI_INEXACT
from models.nuclei import NucleusType

logger = logging.getLogger(__name__)

BACKGROUND = NucleusType("background", (0, 0, 0))
LISTED = 4  # names that the summary gives of each kind


def convert(settings: ConvertSettings) -> int:
    """Read a checkpoint, write it in the format of the output's ending, and print what found its place.

    Returns:
        the exit status, 0.

    Raises:
        FileNotFoundError: where an input is missing.
        ValueError: where the input is no checkpoint, or the output exists or cannot hold it.
    """
    source, output = Path(settings.input), Path(settings.output)
    if output.exists() and output.resolve() == source.resolve():
        raise ValueError(f"output={output} is the input; give another name")
    if output.exists() and not settings.overwrite:
        raise ValueError(f"output={output} exists; give another name, or overwrite=true to replace it")
    imported = import_checkpoint(source, allow_inexact=settings.allow_inexact)
    facts = _gather_facts(settings, imported)
    digest = export_checkpoint(imported, output, facts)
    if imported.source == MONAI:
        logger.warning("inexact: %s", MONAI_INEXACT)
    sys.stdout.write("\n".join(_summarise(imported, facts, output, digest)) + "\n")
    return 0


def read_types(path: str | Path, num_types: int | None) -> tuple[NucleusType, ...]:
    """Read the names and colours of types from the reference's JSON: {"1": ["name", [r, g, b]], …}.

    Args:
        path: the file; background, type 0, may be left out.
        num_types: types of the network, background included; None without types.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where it is not such a file, or names other types than the network has.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"types={path} does not exist; give a JSON file of names and colours")
    try:
        rows = json.loads(Path(path).read_text())
        found = {int(number): NucleusType(str(name), _colour(rgb)) for number, (name, rgb) in rows.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f'types={path} is not JSON of the kind {{"1": ["name", [r, g, b]], …}}: {error}'
        ) from error
    found = {0: BACKGROUND, **found}
    if sorted(found) != list(range(num_types or 0)):
        wanted = "no types" if num_types is None else f"types 0 to {num_types - 1}"
        raise ValueError(
            f"types={path} names types {sorted(found)}, the network has {wanted}; name each once, 0 may be left out"
        )
    return tuple(found[number] for number in sorted(found))


def _colour(rgb: Sequence[int]) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in rgb)
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise ValueError(f"colour {list(rgb)} must be three numbers in 0..255")
    return red, green, blue


def _gather_facts(settings: ConvertSettings, imported: Imported) -> dict[str, Any]:
    known = ModelFacts() if imported.network is None else imported.network.facts
    types = known.types
    if settings.types:
        num_types = None if imported.network is None else imported.network.num_types
        types = read_types(settings.types, num_types)
    facts: dict[str, Any] = {"types": types, "mpp": settings.mpp or known.mpp}
    if imported.source != OURS:
        is_exact = imported.source != MONAI
        origin = {"format": imported.source, "file": Path(settings.input).name, "is_exact": is_exact}
        facts["converted_from"] = origin
    return facts


def _summarise(imported: Imported, facts: dict[str, Any], output: Path, digest: str) -> list[str]:
    network = imported.network
    if network is None:
        what = "encoder of HoVerNet, without decoders"
    else:
        arguments = ", ".join(f"{name}={value}" for name, value in network.arguments.items())
        what = f"{type(network).__name__}({arguments})"
    total = len(imported.state) + len(imported.added)
    types = facts["types"]
    rows = {
        "from": imported.source,
        "network": what,
        "mapped": f"{len(imported.state)} of {total} weights, 0 missing",
        "added": _listed(imported.added, "no output depends on these"),
        "left": _listed(imported.left, "of the file, without a place in the network"),
        "types": "not named; give types=" if types is None else ", ".join(kind.name for kind in types),
        "µm/px": "unknown; give mpp=" if facts["mpp"] is None else str(facts["mpp"]),
        "sha256": digest,
        "written": str(output),
    }
    if network is None or output.suffix == OFFICIAL:  # which hold weights alone
        del rows["types"], rows["µm/px"]
    elif network.num_types is None:
        del rows["types"]
    return [f"{name:<8} {value}" for name, value in rows.items()]


def _listed(names: Sequence[str], meaning: str) -> str:
    if not names:
        return "0"
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{len(names)}, {meaning}: {', '.join(names[:LISTED])}{more}"

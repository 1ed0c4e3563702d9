"""The text of `--help`: every setting with its default and meaning, read off the schema's docstrings."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

from config import schema
from config.comparison import CompareSettings
from config.sweeps import SweepLaunchSettings

SETTINGS = {
    "extract": schema.ExtractSettings,
    "train": schema.TrainingRun,
    "infer": schema.InferSettings,
    "evaluate": schema.EvaluateSettings,
    "check": schema.CheckSettings,
    "tune": schema.TuneSettings,
    "normalize": schema.NormalizeSettings,
    "convert": schema.ConvertSettings,
    "export": schema.ExportSettings,
    "compare": CompareSettings,
}
SWEPT = ("train",)  # commands that take --multirun, and launch= with it
WIDTH = 112
INDENT = 34


def describe_settings(name: str, config_dir: Path) -> str:
    """Return the help text of a command: groups and their options, then every setting.

    Args:
        name: of the command, a key of SETTINGS.
        config_dir: folder of the YAML files, whose sub-folders are the groups.
    """
    settings = SETTINGS[name]
    primary = (config_dir / f"{name}.yaml").read_text()
    groups = [path for path in sorted(config_dir.iterdir()) if re.search(rf"- {path.name}: ", primary)]
    lines = [_summary(settings), "", "Settings are given as key=value, and groups as group=option.", ""]
    if groups:
        lines += ["Groups (folders of config/):"]
        for group in groups:
            options = ", ".join(sorted(option.stem for option in group.glob("*.yaml")))
            lines.append(f"  {group.name + '=':<{INDENT - 2}}{options}")
        lines.append("")
    lines += ["Settings, with the default before any group's values:"]
    lines += [line for row in _rows(settings, "") for line in row]
    if name in SWEPT:
        lines += ["", "With --multirun, where key=a,b,c makes a run of each value (docs/sweeps.md):"]
        lines += [line for row in _rows(SweepLaunchSettings, "launch.") for line in row]
    lines += ["", "--cfg job shows the values after all groups are put together.", ""]
    return "\n".join(lines)


def _rows(settings: Any, prefix: str) -> Iterator[list[str]]:
    hints = get_type_hints(settings)
    meanings = _attributes(settings)
    for field in dataclasses.fields(settings):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            yield from _rows(kind, f"{prefix}{field.name}.")
            continue
        yield _row(f"{prefix}{field.name}={_default(field)}", meanings[field.name])
        for element in filter(dataclasses.is_dataclass, get_args(kind)):
            yield from _rows(element, f"{prefix}{field.name}.0.")


def _row(left: str, meaning: str) -> list[str]:
    wrapped = textwrap.wrap(meaning, WIDTH - INDENT)
    if len(left) > INDENT - 4:
        return [f"  {left}", *(" " * INDENT + line for line in wrapped)]
    return [f"  {left:<{INDENT - 2}}{wrapped[0]}", *(" " * INDENT + line for line in wrapped[1:])]


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
        if value and dataclasses.is_dataclass(value[0] if isinstance(value, list) else None):
            return "[{…}]"
        return str(value).replace("'", "").replace(" ", "")
    return str(field.default).lower() if isinstance(field.default, bool) else str(field.default)


def _summary(settings: Any) -> str:
    return (settings.__doc__ or "").splitlines()[0].replace("`", "")


def _attributes(settings: Any) -> dict[str, str]:
    """Return the meaning of each attribute in a Google-style docstring, continuation lines joined."""
    text = (settings.__doc__ or "").partition("Attributes:")[2]
    entries = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", text, flags=re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in entries}

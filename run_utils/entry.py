"""From the command line to typed settings: Hydra goes no further than this file."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from config import schema
from run_utils.files import replacing
from run_utils.settings_help import SETTINGS, describe_settings

CONFIG_DIR = Path(schema.__file__).parent
FAILURE, USAGE_ERROR = 1, 2  # exit statuses
LOG_FORMAT, DATE_FORMAT = "%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"
HYDRA_OVERRIDES = [
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
]  # a run writes into its own output folder, and nothing beside it
VALUED_OPTIONS = (
    "--cfg",
    "-c",
    "--package",
    "-p",
    "--config-name",
    "-cn",
    "--config-dir",
    "-cd",
    "--info",
    "-i",
)
HINTS = ("object_type", "reference_type", "full_key", "To append")


def run_command(name: str, function: Callable[[Any], int | None]) -> None:
    """Compose the settings of a command from its YAML and the command line, run it, and exit.

    The exit status is what `function` returns (None is 0), and 2 for settings or paths that cannot be
    right: those end in one line on standard error.

    Args:
        name: of the command: a key of SETTINGS and a file in config/.
        function: takes the settings as their dataclass; returns the exit status.
    """
    if any(argument in ("-h", "--help") for argument in sys.argv[1:]):
        sys.stdout.write(describe_settings(name, find_config_dir(name)))
        sys.exit(0)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, datefmt=DATE_FORMAT)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come to us instead of being printed
    try:
        sys.argv[1:] = HYDRA_OVERRIDES + _quote_all(sys.argv[1:])
        status = _run_hydra(name, function)
    except KeyboardInterrupt:
        status = _fail("interrupted; start the same command again to go on", status=130)
    except Exception as error:
        if _is_configuration_error(error):
            status = _fail(_one_line(error) + " (--help lists the settings)")
        elif isinstance(error, (ValueError, OSError)):
            status = _fail(_one_line(error))
        elif isinstance(error, FloatingPointError):
            status = _fail(_one_line(error), status=FAILURE)
        else:
            raise
    sys.exit(status)


def find_config_dir(name: str) -> Path:
    """Return the folder of a command's YAML: one of its own where it uses no groups, whose names are settings then."""
    own = CONFIG_DIR / name
    return own if (own / f"{name}.yaml").is_file() else CONFIG_DIR


def _run_hydra(name: str, function: Callable[[Any], int | None]) -> int:
    import hydra
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    for key, node in SETTINGS.items():
        ConfigStore.instance().store(group="schema", name=key, node=node, package="_global_")
    outcome: list[int | None | BaseException] = []

    def run(composed: Any) -> None:
        try:
            missing = sorted(OmegaConf.missing_keys(composed))
            if missing:
                wanted = " ".join(f"{key}=…" for key in missing)
                raise ValueError(
                    f"no value for {', '.join(missing)}; add {wanted} (--help lists the settings)"
                )
            outcome.append(function(OmegaConf.to_object(composed)))
        except BaseException as error:  # raised again below: Hydra would print its own report first
            outcome.append(error)

    hydra.main(version_base=None, config_path=str(find_config_dir(name)), config_name=name)(run)()
    for result in outcome:
        if isinstance(result, BaseException):
            raise result
    return max((result or 0 for result in outcome if isinstance(result, int)), default=0)


def _quote_all(arguments: list[str]) -> list[str]:
    is_sweep = not {"-m", "--multirun"}.isdisjoint(arguments)
    quoted = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        is_option = argument.startswith("-") or before in VALUED_OPTIONS
        quoted.append(argument if is_option else quote_value(argument, is_sweep=is_sweep))
    return quoted


def quote_value(argument: str, *, is_sweep: bool = False) -> str:
    """Return `key=value` so that Hydra reads a value such as a path with brackets or commas as plain text.

    Args:
        argument: as the user gave it.
        is_sweep: whether commas separate the values of a sweep, as with --multirun.

    Raises:
        ValueError: for an argument that is no setting.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, equals, value = argument.partition("=")
    if argument.startswith("~"):
        return argument
    if not equals:
        raise ValueError(f"{argument!r} is not a setting; write key=value (--help lists the settings)")
    try:
        override = OverridesParser.create().parse_override(argument)
        is_plain = override.is_sweep_override() and not is_sweep
    except HydraException:
        is_plain = True
    if not is_plain:
        return argument
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{escaped}'"


def save_settings(settings: Any, path: Path) -> None:
    """Write resolved settings as YAML beside a run's results."""
    from omegaconf import OmegaConf

    with replacing(path) as temporary:
        temporary.write_text(OmegaConf.to_yaml(OmegaConf.structured(settings)))


def _is_configuration_error(error: Exception) -> bool:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    return isinstance(error, (HydraException, OmegaConfBaseException))


def _one_line(error: Exception) -> str:
    """Return an error as one line, its cause included, hints meant for programmers left out."""
    causes = [str(error)] + (
        [str(error.__cause__)] if _is_configuration_error(error) and error.__cause__ else []
    )
    text = "\n".join(causes).split("Config search path:")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(HINTS)]
    return " ".join(dict.fromkeys(kept))


def _fail(message: str, *, status: int = USAGE_ERROR) -> int:
    sys.stderr.write(f"{Path(sys.argv[0]).name}: {message}\n")
    return status

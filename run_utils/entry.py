"""From the command line to typed settings: Hydra goes no further than this file."""

from __future__ import annotations

import itertools
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import schema
from config.sweeps import SweepLaunchSettings
from run_utils.files import replacing
from run_utils.log import start_logging
from run_utils.settings_help import SETTINGS, SWEPT, describe_settings
from run_utils.sweeps import SWEEP_DIR, Sweep, forget_failures, launcher_options, report_failures

logger = logging.getLogger(__name__)

CONFIG_DIR = Path(schema.__file__).parent
FAILURE, USAGE_ERROR = 1, 2  # exit statuses
HYDRA_OVERRIDES = [
    "hydra.run.dir=.",
    "hydra.sweep.subdir=.",
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
SWEEP_OPTIONS = {"-m", "--multirun"}
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
    start_logging()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come to us instead of being printed
    try:
        options, arguments = _split(sys.argv[1:])
        if SWEEP_OPTIONS.isdisjoint(options):
            status = _run_once(name, function, options, arguments)
        else:
            status = _run_sweep(name, options, arguments)
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


def _run_once(
    name: str, function: Callable[[Any], int | None], options: Sequence[str], arguments: Sequence[str]
) -> int:
    from omegaconf import OmegaConf

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

    quoted = [quote_value(argument) for argument in arguments]
    if name in SWEPT and any(_is_launch(argument) for argument in quoted):
        raise ValueError("launch= starts runs as jobs; add --multirun, whether it is one run or several")
    _call_hydra(name, run, [*options, *HYDRA_OVERRIDES, *quoted])
    for result in outcome:
        if isinstance(result, BaseException):
            raise result
    return max((result or 0 for result in outcome if isinstance(result, int)), default=0)


def _call_hydra(name: str, task: Callable[[Any], None], arguments: Sequence[str]) -> None:
    """Let Hydra compose what arguments, options first, ask for, and call `task` with it, once or for each run."""
    import hydra
    from hydra.core.config_store import ConfigStore

    sys.argv[1:] = arguments
    for key, node in SETTINGS.items():
        ConfigStore.instance().store(group="schema", name=key, node=node, package="_global_")
    hydra.main(version_base=None, config_path=str(find_config_dir(name)), config_name=name)(task)()


def _run_sweep(name: str, options: Sequence[str], arguments: Sequence[str]) -> int:
    """Run a command once for each combination of the values given, then show all runs beside one another.

    Returns:
        0, or 1 where a run failed.
    """
    if name not in SWEPT:
        raise ValueError(f"{Path(sys.argv[0]).name} has no --multirun; start it once for each value")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "--multirun starts processes itself; leave torchrun out, and set launch.gpus=N for N each run"
        )
    quoted = [quote_value(argument, is_sweep=True) for argument in arguments]
    launch = _read_launch(list(filter(_is_launch, quoted)))
    settings = [argument for argument in quoted if not _is_launch(argument)]
    kept = [option for option in options if option not in SWEEP_OPTIONS]
    sweep, folders = _plan_sweep(settings, launch, kept)
    values: dict[str, object] = {
        "hydra.sweep.dir": f"{sweep.output}/{SWEEP_DIR}",
        "hydra.job.name": Path(sys.argv[0]).stem,
    }
    values |= launcher_options(launch, sweep.output)
    launcher = [quote_value(f"{key}={value}") for key, value in values.items()]
    forget_failures(folders)
    if launch.kind != "local":  # jobs start without the script, and so without its folder in the path
        paths = [str(CONFIG_DIR.parent), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    logger.info("%d runs below %s", len(folders), sweep.output)
    for verbose in ("hydra", "hydra_plugins"):
        logging.getLogger(verbose).setLevel(logging.WARNING)  # they repeat every setting for every run
    lost = ""
    try:
        _call_hydra(name, _SweepTask(sweep), [*options, *HYDRA_OVERRIDES, *launcher, *settings])
    except Exception as error:
        if not type(error).__module__.startswith("submitit"):
            raise
        lost = _one_line(error).partition("Error stream")[0].strip()  # of a job that was killed
    from run_utils.comparison import show_runs  # late: it takes a second to import

    sys.stdout.write(show_runs(sweep.output))
    return report_failures(folders, lost)


@dataclass(frozen=True)
class _SweepTask:
    """Runs one combination of settings; Hydra calls it here, or in the process of a job.

    Attributes:
        sweep: that the run is of.
    """

    sweep: Sweep

    def __call__(self, composed: Any) -> None:
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        arguments = list(HydraConfig.get().overrides.task)
        pairs = (argument.lstrip("+").partition("=") for argument in arguments)
        folder = self.sweep.folder_of({key: value for key, _, value in pairs})
        composed.output = str(folder)
        try:
            text = settings_text(OmegaConf.to_object(composed))
        except (ValueError, OmegaConfBaseException):
            text = ""  # the run itself says what cannot be right
        kept = [argument for argument in arguments if not argument.startswith("output=")]
        self.sweep.run_one([*kept, f"output={folder}"], folder, text)


def _plan_sweep(
    settings: Sequence[str], launch: SweepLaunchSettings, options: Sequence[str]
) -> tuple[Sweep, list[Path]]:
    """Return what the runs have in common, Hydra's options among it, and the folder of each."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    overrides = OverridesParser.create().parse_overrides(list(settings))
    outputs = [override for override in overrides if override.key_or_group == "output"]
    if not outputs or outputs[-1].is_sweep_override():
        raise ValueError("--multirun needs one output=FOLDER, in which each run gets a folder of its own")
    choices = {
        override.key_or_group: list(override.sweep_string_iterator())
        for override in overrides
        if override.is_sweep_override()
    }
    script, output = str(Path(sys.argv[0]).resolve()), str(outputs[-1].value())
    sweep = Sweep(script, output, tuple(choices), max(launch.gpus, 1), tuple(options))
    combinations = itertools.product(*choices.values())
    folders = [sweep.folder_of(dict(zip(choices, values, strict=True))) for values in combinations]
    for folder in folders:
        if folders.count(folder) > 1:
            raise ValueError(
                f"two runs would be called {folder.name}; give values that differ in letters or digits"
            )
    return sweep, folders


def _is_launch(argument: str) -> bool:
    return argument.startswith(("launch=", "launch."))


def _read_launch(arguments: Sequence[str]) -> SweepLaunchSettings:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    overrides = OverridesParser.create().parse_overrides(list(arguments))
    given = {
        override.key_or_group.removeprefix("launch").lstrip(".") or "kind": override.value()
        for override in overrides
    }
    launch = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SweepLaunchSettings), given))
    assert isinstance(launch, SweepLaunchSettings)
    return launch


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return Hydra's options, with their values, and the settings: Hydra wants all of the one before the others."""
    options: list[str] = []
    settings: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        is_option = argument.startswith("-") or before in VALUED_OPTIONS
        (options if is_option else settings).append(argument)
    return options, settings


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
    with replacing(path) as temporary:
        temporary.write_text(settings_text(settings))


def settings_text(settings: Any) -> str:
    """Return settings as YAML."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.structured(settings))


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

"""Settings: every shipped recipe composes, and what cannot be right ends in one line and exit code 2."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from config.schema import ExtractSettings, InferSettings, TrainingRun
from run_utils.entry import CONFIG_DIR, quote_value, run_command, save_settings
from run_utils.settings_help import describe_settings


def compose(name: str, *arguments: str) -> Any:
    """Run a command with a function that hands its settings back."""
    seen: list[Any] = []
    sys.argv = [f"{name}.py", *arguments]
    with pytest.raises(SystemExit) as stop:
        run_command(name, seen.append)
    assert stop.value.code == 0
    return seen[0]


def fail(capsys: pytest.CaptureFixture[str], name: str, *arguments: str) -> str:
    """Run a command that must end with exit code 2, and return its one line on standard error."""
    sys.argv = [f"{name}.py", *arguments]
    with pytest.raises(SystemExit) as stop:
        run_command(name, lambda settings: None)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.fixture(autouse=True)
def _keep_argv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.chdir(tmp_path)


EXPERIMENTS = sorted(path.stem for path in (CONFIG_DIR / "experiment").glob("*.yaml"))
GROUPS = [
    (path.parent.name, path.stem)
    for path in sorted(CONFIG_DIR.glob("*/*.yaml"))
    if path.parent.name != path.stem  # the YAML of a command that has a folder of its own
]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(experiment: str) -> None:
    run = compose("train", f"experiment={experiment}")
    assert isinstance(run, TrainingRun)
    assert run.output == f"runs/{experiment}"


@pytest.mark.parametrize(("group", "option"), [row for row in GROUPS if row[0] != "experiment"])
def test_every_option_of_every_group_composes(group: str, option: str) -> None:
    compose("train", f"{group}={option}")


def test_the_recipe_of_the_segmentation_wsi_readme_is_as_stated() -> None:
    run = compose("train", "experiment=segmentation_wsi")
    assert run.model.mode == "original"
    assert run.train.input_size == 270
    (phase,) = run.train.phases
    assert (phase.epochs, phase.batch_size, phase.learning_rate) == (50, 8, 1e-4)
    assert (phase.schedule, phase.step_epochs, phase.step_factor) == ("step", 25, 0.1)
    colours = run.augmentation
    assert (colours.brightness, colours.contrast, colours.saturation, colours.hue) == (
        26,
        [0.75, 1.25],
        0.2,
        8,
    )


@pytest.mark.parametrize(("split", "train", "validation"), [(1, 1, 2), (2, 2, 1), (3, 3, 2)])
def test_pannuke_follows_the_official_protocol_without_affine_warps(
    split: int, train: int, validation: int
) -> None:
    run = compose("train", f"experiment=pannuke_split{split}")
    assert (run.data.train_store, run.data.validation_store) == (f"fold{train}", f"fold{validation}")
    assert (run.data.adapter, run.model.mode, run.train.input_size) == ("pannuke", "fast", 256)
    warps = run.augmentation
    assert (warps.scale, warps.shift, warps.shear, warps.rotation) == ([1, 1], 0, 0, 0)
    assert warps.flip == 0.5 and warps.hue == 8


def test_the_published_recipe_freezes_the_encoder_first() -> None:
    first, second = compose("train", "experiment=consep_fast").train.phases
    assert (first.freeze_encoder, first.batch_size, first.epochs) == (True, 16, 50)
    assert (second.freeze_encoder, second.batch_size, second.epochs) == (False, 4, 50)


def test_extraction_defaults_to_540_windows_every_256_pixels() -> None:
    settings = compose("extract")
    assert isinstance(settings, ExtractSettings)
    assert (settings.patch_size, settings.patch_step, settings.border) == (540, 256, "mirror")


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("train", ["bogus=1"], "bogus"),
        ("train", ["train.max_steps=many"], "'many' of type 'str' could not be converted to Integer"),
        ("train", ["experiment=nope"], "consep_fast consep_lite"),
        ("train", ["model.mode=nope"], "original, fast"),
        ("train", ["train.phases=[]"], "at least one phase"),
        ("train", ["train.phases=[{step_epochs: 0}]"], "step_epochs=0 must be greater than 0"),
        ("train", ["train.clip_norm=-1"], "train.clip_norm=-1.0 must be 0 or more"),
        ("train", ["model.decoder_channels=[]"], "leaves no decoder"),
        ("extract", ["data.types=both"], "auto, merged, raw"),
        ("train", ["train.ema_decay=1"], "train.ema_decay=1.0"),
        ("train", ["train.loss_weights.np_bce=2"], "np_bce"),
        ("train", ["augmentation.scale=[1.2,0.8]"], "augmentation.scale"),
        ("train", ["data.root=???"], "no value for data.root"),
        ("extract", ["patch_step=600"], "leave gaps"),
        ("infer", [], "no value for input, output"),
        ("infer", ["input=a", "output=b", "window=512", "published_windows=true"], "contradicts"),
        ("infer", ["input=a", "output=b", "outputs=[]"], "leaves nothing to write"),
        ("infer", ["input"], "write key=value"),
        ("evaluate", ["true=a", "predicted=b", "mode=nope"], "instance, type"),
    ],
)
def test_what_cannot_be_right_ends_in_one_line(
    command: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in fail(capsys, command, *arguments)


@pytest.mark.parametrize(
    "path", ["slides/case (1).svs", "a,b.png", "it's.png", "a=b/c.png", "plain.png", "x y"]
)
def test_any_path_can_be_given_as_it_is(path: str) -> None:
    settings = compose("infer", f"input={path}", "output=out")
    assert isinstance(settings, InferSettings)
    assert settings.input == path


def test_lists_stay_lists() -> None:
    assert quote_value("outputs=[json,mat]") == "outputs=[json,mat]"
    assert compose("infer", "input=a", "output=b", "outputs=[json,mat]").outputs == ["json", "mat"]


@pytest.mark.parametrize("error", [ValueError("a=1 must be 2"), FileNotFoundError("no file x")])
def test_an_error_of_the_command_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def raise_error(settings: object) -> None:
        raise error

    sys.argv = ["evaluate.py", "true=a", "predicted=b"]
    with pytest.raises(SystemExit) as stop:
        run_command("evaluate", raise_error)
    assert stop.value.code == 2
    assert capsys.readouterr().err.strip() == f"evaluate.py: {error}"


def test_a_programming_error_keeps_its_traceback() -> None:
    def break_down(settings: object) -> None:
        raise KeyError("bug")

    sys.argv = ["evaluate.py", "true=a", "predicted=b"]
    with pytest.raises(KeyError):
        run_command("evaluate", break_down)


@pytest.mark.parametrize("command", ["extract", "train", "infer", "evaluate"])
def test_help_answers_without_composing_anything(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    sys.argv = [f"{command}.py", "--help"]
    with pytest.raises(SystemExit) as stop:
        run_command(command, lambda settings: None)
    assert stop.value.code == 0
    assert "key=value" in capsys.readouterr().out


def test_help_lists_groups_and_their_options() -> None:
    text = describe_settings("train", CONFIG_DIR)
    assert "segmentation_wsi" in text
    assert "train.ema_decay=0.0" in text
    assert "train.phases.0.freeze_encoder=false" in text
    assert "hovernet_fast, hovernet_original, lite" in text


def test_saved_settings_hold_resolved_values(tmp_path: Path) -> None:
    save_settings(compose("train", "experiment=consep_lite"), tmp_path / "settings.yaml")
    text = (tmp_path / "settings.yaml").read_text()
    assert "output: runs/consep_lite" in text
    assert "${" not in text


@pytest.mark.parametrize("value", ["none", "macenko", "targets/other lab.json"])
def test_the_stain_of_inference_is_a_plain_setting_though_training_has_a_group_of_that_name(
    value: str,
) -> None:
    assert compose("infer", "input=a.png", "output=out", f"stain={value}").stain == value


def test_stages_of_the_stain_are_chosen_and_ordered_by_settings() -> None:
    run = compose("train", "stain=macenko_hed_jitter", "stain.order=[hed,normalise]")
    assert (run.stain.method, run.stain.hed_scale, run.stain.order) == ("macenko", 0.2, ["hed", "normalise"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stain.method=mackenzie"], "stain.method=mackenzie is not known; use one of: none, macenko"),
        (["stain.hed_scale=2"], "stain.hed_scale=2.0 must lie in 0..1"),
        (["stain.order=[normalise,blur]"], "stain.order=blur is not known"),
        (["stain.order=[hed,hed]"], "names a stage twice"),
        (["stain=macenko", "stain.order=[colour]"], "add normalise to it"),
        (["stain=hed_jitter", "stain.order=[normalise,colour]"], "add hed to it"),
        (["stain.hed_shift=0.1", "stain.order=[]"], "stain.hed_shift=0.1 is left out by stain.order=[]"),
        (["stain.target=a.json"], "set stain.method=macenko"),
    ],
)
def test_contradictory_settings_of_stain_are_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in fail(capsys, "train", *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.balance=median"], "train.balance=median is not known; use one of: none, inverse, sqrt"),
        (["train.sampling=all"], "train.sampling=all is not known; use one of: uniform, types"),
        (["train.sampling_gamma=1.5"], "train.sampling_gamma=1.5 must lie in 0..1"),
        (["train.balance=sqrt", "train.class_weights=[1,2,3,4,5]"], "drop one of the two"),
        (["train.balance=sqrt", "model.has_types=false"], "train.balance=sqrt weighs types"),
    ],
)
def test_contradictory_settings_against_imbalance_are_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in fail(capsys, "train", *arguments)


@pytest.mark.parametrize("contradiction", [{"maps": "small"}, {"decoder": "device"}])
def test_views_are_averaged_in_full_on_the_host(contradiction: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="contradict tta=flips.*set tta=none"):
        InferSettings(input="a", output="b", tta="flips", **contradiction)

"""What the workers of a cohort agree on, in its output folder: all cut slides up alike, whoever measured."""

from __future__ import annotations

import dataclasses
import fcntl
import json
from pathlib import Path
from typing import Any

from config.schema import InferSettings
from run_utils.build_inference import build_plan, resolved_facts
from run_utils.files import locking
from run_utils.inference.plan import Plan
from run_utils.inference.predictors import Predictor

FILE_NAME = ".cohort.json"


class Agreement:
    """The window and the batch that the first worker chose, for all that follow; held while this process lives.

    Args:
        folder: output folder of the cohort; its file system must know `flock`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = (folder / FILE_NAME).open("a+b", buffering=0)

    def forget(self) -> bool:
        """Drop what an earlier run agreed on; return whether it could be: no worker of it is left."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self._file.truncate(0)
        fcntl.flock(self._file, fcntl.LOCK_UN)
        return True

    def make_plan(self, settings: InferSettings, predictor: Predictor) -> tuple[Plan, dict[str, object]]:
        """Return the plan of all workers, and what settings left open became.

        Raises:
            ValueError: this machine would do slides another way than the first worker's.
        """
        fcntl.flock(self._file, fcntl.LOCK_SH)
        with locking(self._folder):  # the others wait while the first one measures
            known = self._read()
            if not known:
                plan = build_plan(settings, predictor)
                facts = resolved_facts(settings, predictor, plan)
                known = {"facts": facts, "window": plan.window, "batch_size": plan.batch_size}
                self._file.truncate(0)
                self._file.write(json.dumps(known).encode())
                return plan, facts
        chosen = {name: known[name] for name in ("window", "batch_size")}
        if settings.published_windows:
            del chosen["window"]
        plan = build_plan(dataclasses.replace(settings, **chosen), predictor)
        facts = resolved_facts(settings, predictor, plan)
        _check(facts, known["facts"])
        return plan, facts

    def close(self) -> None:
        """Leave the agreement."""
        self._file.close()

    def _read(self) -> dict[str, Any]:
        self._file.seek(0)
        try:
            known: dict[str, Any] = json.loads(self._file.read())
        except ValueError:  # nothing yet, or its writer was killed
            return {}
        return known


def _check(facts: dict[str, object], first: dict[str, Any]) -> None:
    differing = [name for name, value in facts.items() if first.get(name) != value]
    if differing:
        listed = "; ".join(f"{name}={facts[name]}, there {first.get(name)}" for name in differing)
        raise ValueError(
            f"this worker would do slides another way than the first one ({listed}): set it for all, such as "
            "precision=fp32 or device=cpu, and use one commit"
        )

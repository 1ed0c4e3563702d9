"""A worker of a cohort: loads the network once, then does one slide after another, wherever it runs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import cv2
import torch

from config.schema import InferSettings
from dataloader.address import Address, locate
from run_utils.build_inference import build_predictor
from run_utils.cohort.agreement import Agreement
from run_utils.cohort.folder import meeting_dir
from run_utils.devices import CPUS_VARIABLE
from run_utils.inference.manifest import Manifest
from run_utils.inference.monitor import Monitor
from run_utils.inference.slide_run import SlideRunner
from run_utils.inference.status import FAILED, IS_BUSY, SlideStatus
from run_utils.log import start_logging
from run_utils.stain import choose_normalizer

PATIENCE_S = 120.0  # for a slide that is held: a file server keeps the locks of a lost machine about so long
PAUSE_S = 0.5


class Worker:
    """Does slides of a cohort, one at a time; its outputs are those of a run of one process.

    Args:
        settings: of the run.
        cpus: that it may use, threads of every kind included; 0 for all of the machine.
    """

    def __init__(self, settings: InferSettings, cpus: int = 0) -> None:
        self._settings = settings
        self._cpus = cpus

    def start(self) -> int:
        """Load the network, and agree with the other workers; return this process's id.

        Raises:
            ValueError: a checkpoint or settings that cannot be used here.
        """
        start_logging()
        limit_threads(self._cpus)
        settings, monitor = self._settings, Monitor(has_bar=False)
        predictor = build_predictor(settings, monitor)
        manifest = Manifest(locate(settings.output), settings, joins=True)
        self._agreement = Agreement(meeting_dir(settings))
        plan, facts = self._agreement.make_plan(settings, predictor)
        normalizer = choose_normalizer(settings.stain, predictor.facts.notes)
        self._runner = SlideRunner(settings, predictor, plan, manifest, normalizer, facts, monitor)
        return os.getpid()

    def run(self, name: str, path: Path | Address) -> SlideStatus:
        """Do one slide, going on where another worker stopped; one that is held for too long counts as failed."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            status = self._runner.run(name, path)
            if status.reason != IS_BUSY:
                return status
            if time.monotonic() > deadline:
                return SlideStatus(name, FAILED, IS_BUSY, seconds=status.seconds)
            time.sleep(PAUSE_S)


def limit_threads(cpus: int) -> None:
    """Keep this process, and the engines that it starts, to a number of CPUs; 0 leaves all of them."""
    cv2.setNumThreads(1)  # regions are decoded side by side, one thread each
    if cpus:
        os.environ[CPUS_VARIABLE] = str(cpus)
        torch.set_num_threads(cpus)

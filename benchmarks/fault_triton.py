"""A Triton server killed in the middle of a slide, and started again: what `benchmarks.faults` does for `triton`."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from benchmarks.faults import Kill
from benchmarks.triton_overhead import CHECKPOINT, ROOT, SLIDE, export_for_cpu
from benchmarks.triton_server import TritonServer
from run_utils.outputs import output_path

MODEL = "hovernet"
PART = "1000,1000,450,450"  # of the slide, x,y,width,height in level-0 px: some seconds
WINDOW = 512  # px
REQUESTS = 2  # under way at once: what a kill makes the server do again, at most
EARLIEST, LATEST = 0.3, 0.9  # of the undisturbed run's time; before, the program still starts
AWAY_S = 1.0  # that the server is gone before it is started again
LIMIT_S = 300.0


def kill_once(folder: Path, generator: random.Random) -> Kill:
    """Run a part of a slide through a server that is killed at a random moment, and compare its nuclei.

    Args:
        folder: keeps the network's export and the undisturbed run between calls.
        generator: of the moment.
    """
    models, undisturbed = folder / "models", folder / "undisturbed"
    if not models.is_dir():
        export_for_cpu(CHECKPOINT, models, model=MODEL)
    with TritonServer(models) as server:
        record = folder / "undisturbed_facts.json"
        if not record.is_file():
            start = time.perf_counter()
            _end(_start(undisturbed, server))
            facts = {"seconds": time.perf_counter() - start, "num_windows": server.count(MODEL)}
            record.write_text(json.dumps(facts))
        facts = json.loads(record.read_text())
        after_s = generator.uniform(EARLIEST, LATEST) * facts["seconds"]
        killed = folder / f"killed_{generator.getrandbits(64):016x}"
        process = _start(killed, server)
        time.sleep(after_s)
        if process.poll() is not None:
            raise RuntimeError(f"the run had ended within {after_s:.1f} s, before the kill")
        server.kill()
        time.sleep(AWAY_S)
        server.start()
        _end(process)
    expected, found = (_nuclei(output) for output in (undisturbed, killed))
    return Kill(
        what="Triton server, in the middle of a slide, and started again",
        after_s=after_s,
        num_lost=(expected - found).total(),
        num_twice=(found - expected).total(),
        share_again=REQUESTS / facts["num_windows"],
    )


def _start(output: Path, server: TritonServer) -> subprocess.Popen[str]:
    command = [
        "run_infer.py",
        f"input={SLIDE}",
        f"output={output}",
        f"checkpoint={CHECKPOINT}",
        "outputs=[json]",
        f"regions={PART}",
        f"window={WINDOW}",
        "predictor=triton",
        f"triton.address={server.address('http')}",
        f"triton.requests={REQUESTS}",
    ]
    return subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def _end(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=LIMIT_S)
    if process.returncode:
        raise RuntimeError(f"run_infer.py ended with {process.returncode}: {errors[-2000:]}")


def _nuclei(output: Path) -> Counter[str]:
    """Return a run's nuclei, whatever their order, each as often as it is there."""
    path = output_path(output, SLIDE.stem, "json")
    nuclei = json.loads(path.read_text())["nuc"]
    return Counter(json.dumps(nucleus, sort_keys=True) for nucleus in nuclei.values())

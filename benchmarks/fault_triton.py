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
REQUESTS = 2  # under way at once
LATEST = 0.9  # of the undisturbed run's time from the first request on
PAUSE_S = 0.02
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
    with TritonServer(models, "--log-verbose=1") as server:
        record = folder / "undisturbed_facts.json"
        if not record.is_file():
            begun = server.count_requests()
            process = _start(undisturbed, server)
            start = _wait_for_request(server, begun, process)
            _end(process)
            seconds = time.perf_counter() - start
            facts = {"seconds": seconds, "num_requests": server.count_requests() - begun}
            record.write_text(json.dumps(facts))
        facts = json.loads(record.read_text())
        killed = folder / f"killed_{generator.getrandbits(64):016x}"
        begun, start = server.count_requests(), time.perf_counter()
        process = _start(killed, server)
        _wait_for_request(server, begun, process)
        time.sleep(generator.uniform(0, LATEST) * facts["seconds"])
        if process.poll() is not None:
            _end(process)
            return kill_once(folder, generator)  # was faster than the run to compare with
        after_s = time.perf_counter() - start
        server.kill()
        time.sleep(AWAY_S)
        server.start()
        _end(process)
        num_again = server.count_requests() - begun - facts["num_requests"]
    paths = [output_path(output, SLIDE.stem, "json") for output in (undisturbed, killed)]
    expected, found = map(_nuclei, paths)
    is_same = paths[0].read_bytes() == paths[1].read_bytes()
    return Kill(
        what="Triton server, in the middle of a slide, and started again",
        after_s=after_s,
        num_lost=(expected - found).total(),
        num_twice=(found - expected).total()
        or int(expected == found and not is_same),  # or otherwise written
        share_again=num_again / facts["num_requests"],
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


def _wait_for_request(server: TritonServer, begun: int, process: subprocess.Popen[str]) -> float:
    """Return the time of a run's first request, which is when its slide begins."""
    while server.count_requests() == begun:
        if process.poll() is not None:
            _end(process)
            raise RuntimeError("the run ended without a request")
        time.sleep(PAUSE_S)
    return time.perf_counter()


def _end(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=LIMIT_S)
    if process.returncode:
        raise RuntimeError(f"run_infer.py ended with {process.returncode}: {errors[-2000:]}")


def _nuclei(path: Path) -> Counter[str]:
    """Return a file's nuclei, whatever their order, each as often as it is there."""
    nuclei = json.loads(path.read_text())["nuc"]
    return Counter(json.dumps(nucleus, sort_keys=True) for nucleus in nuclei.values())

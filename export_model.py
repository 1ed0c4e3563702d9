"""Write a network for other programs: `python export_model.py checkpoint=FILE output=FILE.onnx|FILE.xml|FILE.ts`."""

from __future__ import annotations

from config.schema import ExportSettings
from run_utils.entry import run_command


def main(settings: ExportSettings) -> int:
    """Write ONNX, OpenVINO or TorchScript, and report by how much its maps differ from torch's."""
    from run_utils.export import export  # late: --help answers without torch

    return export(settings)


if __name__ == "__main__":
    run_command("export", main)

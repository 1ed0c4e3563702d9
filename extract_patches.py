"""Cut annotated images into patches to train on: `python extract_patches.py data=consep data.root=…`."""

from __future__ import annotations

from config.schema import ExtractSettings
from run_utils.entry import run_command


def main(settings: ExtractSettings) -> None:
    """Write one patch store a split, and the images where they are asked for; run twice, it resumes."""
    from run_utils.extraction import (  # late: --help answers at once
        export_images,
        extract_patches,
        open_data,
        plan_stores,
    )

    data = settings.data
    adapter = open_data(data)
    output_dir = settings.output or data.patches
    plans = plan_stores(
        adapter,
        data.splits,
        split_from=data.split_from,
        num_validation=data.num_validation,
        seed=settings.seed,
    )
    extract_patches(
        adapter,
        output_dir,
        plans,
        patch_size=settings.patch_size,
        patch_step=settings.patch_step,
        border=settings.border,
    )
    if settings.export_images:
        export_images(adapter, output_dir, data.splits)


if __name__ == "__main__":
    run_command("extract", main)

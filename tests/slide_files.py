"""Slide files of every kind that can be made without a scanner, for the tests of the readers."""

import numpy as np
import tifffile
from PIL import Image

MPP = 0.25
SHAPE = (300, 452)
TILED = {"photometric": "rgb", "tile": (64, 128)}
RESOLUTION = {"resolution": (1e4 / MPP, 1e4 / MPP), "resolutionunit": "CENTIMETER"}
NM_PER_UM = 1000
LEICA_IMAGE = """<image><device model="M" version="1"/><creationDate>2020-01-01T00:00:00Z</creationDate>
<pixels sizeX="{width}" sizeY="{height}">{levels}</pixels>
<view sizeX="{view[3]}" sizeY="{view[2]}" offsetX="{view[1]}" offsetY="{view[0]}"/>
<scanSettings><objectiveSettings><objective>{power}</objective></objectiveSettings><illuminationSettings>
<numericalAperture>0.7</numericalAperture><illuminationSource>brightfield</illuminationSource>
</illuminationSettings></scanSettings></image>"""


def smooth_image():
    """Smooth enough that shrinking from a level nearly equals shrinking from level 0."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    channels = [128 + 100 * np.sin(x / 9 + phase) * np.cos(y / 13) for phase in (0, 1, 2)]
    return np.rint(np.stack(channels, -1)).astype(np.uint8)


def write_with_pillow(path, image):
    Image.fromarray(image).save(path)


def write_tiled(path, image):
    tifffile.imwrite(path, image, compression="deflate", **TILED, **RESOLUTION)


def write_striped(path, image):
    tifffile.imwrite(path, image, photometric="rgb", rowsperstrip=17, compression="lzw", **RESOLUTION)


def write_jpeg(path, image):
    tifffile.imwrite(path, image, compression="jpeg", compressionargs={"level": 95}, **TILED, **RESOLUTION)


def write_pyramid(path, image):
    """Each level the exact 2x2 or 4x4 mean, so that a level stands for what level 0 would give."""
    with tifffile.TiffWriter(path) as file:
        file.write(image, subifds=2, **TILED, **RESOLUTION)
        for step in (2, 4):
            file.write(block_mean(image, step), subfiletype=1, **TILED)


def write_flat_pyramid(path, image):
    """The levels as images of the file's main list, as libvips writes them, not below the first."""
    with tifffile.TiffWriter(path) as file:
        file.write(image, compression="lzw", metadata=None, **TILED, **RESOLUTION)
        for step in (2, 4):
            file.write(block_mean(image, step), compression="lzw", subfiletype=1, metadata=None, **TILED)


def write_ome(path, image):
    axes = {"axes": "YXS", "PhysicalSizeX": MPP, "PhysicalSizeY": MPP}
    tifffile.imwrite(path, image, ome=True, metadata=axes, **TILED)


def write_aperio(path, image, **options):
    description = f"Aperio Image Library v1\n{image.shape[1]}x{image.shape[0]} |AppMag = 40|MPP = {MPP}"
    options = TILED | options
    with tifffile.TiffWriter(path) as file:
        file.write(image, description=description, metadata=None, **options)
        file.write(image[::4, ::4], metadata=None, description="Aperio thumbnail", photometric="rgb")
        file.write(block_mean(image, 2), metadata=None, description="Aperio 40 -> 20", **options)


def write_leica(path, image, frame=(1000, 1600), places=((200, 400),), resolution=RESOLUTION):
    """A Leica SCN whose frame (height, width) holds ``image`` at each of ``places`` (y, x), and glass elsewhere."""
    nm = round(MPP * NM_PER_UM)
    height, width = image.shape[:2]
    pages = [np.full((64, 64, 3), 200, np.uint8)]  # the picture of the whole glass comes first
    views = [_leica_image(pages, (0, 0, frame[0] * nm, frame[1] * nm), 0.6, first=0)]
    for y, x in places:
        levels = [image, block_mean(image, 2)]
        views.append(_leica_image(levels, (y * nm, x * nm, height * nm, width * nm), 40, first=len(pages)))
        pages += levels
    description = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection sizeX="{frame[1] * nm}" sizeY="{frame[0] * nm}">{"".join(views)}</collection></scn>'
    )
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for index, page in enumerate(pages):
            text = description if index == 0 else None
            file.write(page, description=text, metadata=None, compression="lzw", **TILED, **resolution)


def _leica_image(levels, view, power, first):
    entries = "".join(
        f'<dimension sizeX="{page.shape[1]}" sizeY="{page.shape[0]}" r="{r}" ifd="{first + r}"/>'
        for r, page in enumerate(levels)
    )
    height, width = levels[0].shape[:2]
    return LEICA_IMAGE.format(width=width, height=height, levels=entries, view=view, power=power)


def block_mean(image, step):
    height, width = image.shape[0] // step * step, image.shape[1] // step * step
    blocks = image[:height, :width].reshape(height // step, step, width // step, step, 3)
    return np.rint(blocks.mean((1, 3))).astype(np.uint8)


def damage_tile(path, index, num_bytes=64):
    """Overwrite the start of a tile of a TIFF's first image with zeros."""
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        offset, size = page.dataoffsets[index], min(num_bytes, page.databytecounts[index])
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(size))

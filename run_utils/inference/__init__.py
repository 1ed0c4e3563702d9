"""Inference: image to tiles, tiles to maps, maps to nuclei, for one image and for a folder of them."""

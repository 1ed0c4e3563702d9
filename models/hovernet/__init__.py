"""HoVer-Net (Graham et al. 2019): geometry, layers, networks, targets, losses, decoding, checkpoints."""

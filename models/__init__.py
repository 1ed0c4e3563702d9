"""Networks and the method around them: targets, losses, decoding, checkpoints, and the table of nuclei."""

"""From label maps to numbers: one overlap table per image, and the scores read off it."""

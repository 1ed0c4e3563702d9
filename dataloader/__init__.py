"""From files to batches: annotations, patch stores, augmentation, slides and their readers."""

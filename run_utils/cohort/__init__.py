"""Many slides on many workers: who does which, and what becomes of those whose worker is lost."""

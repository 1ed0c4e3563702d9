"""The runs: extraction, training, inference, evaluation, and the one place where parts are joined (build)."""

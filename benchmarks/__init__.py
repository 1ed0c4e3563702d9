"""Commands that print a figure: `python -m benchmarks.<name>`."""

"""Settings of every command: typed dataclasses in schema.py, values in the YAML groups beside it."""

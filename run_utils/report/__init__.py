"""The report of an evaluation: one HTML page that needs nothing beside it, and its tables as files."""

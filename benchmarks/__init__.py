"""Measurements of the package as ratios to a raw ASGI floor in the same run."""

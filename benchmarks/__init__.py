"""Measurements, each a module to run: ``python -m benchmarks.step`` times whole optimizer steps."""

"""Judges models: numbers, baselines beside them, and one report to read."""

"""Prequential evaluation, baselines and drift detectors."""

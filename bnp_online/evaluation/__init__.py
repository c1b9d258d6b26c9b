"""Prequential evaluation, scores of trivial predictions, and drift detectors."""

from .baselines import Baselines
from .drift import ADWIN, Detector, PageHinkley
from .prequential import Learner, PrequentialMetrics, Result, log_loss, prequential

__all__ = [
    "ADWIN",
    "Baselines",
    "Detector",
    "Learner",
    "PageHinkley",
    "PrequentialMetrics",
    "Result",
    "log_loss",
    "prequential",
]

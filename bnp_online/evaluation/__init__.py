"""Prequential evaluation, scores of trivial predictions, their history, and drift detectors."""

from .baselines import Baselines
from .drift import ADWIN, Detector, PageHinkley
from .history import ScoreHistory
from .prequential import Learner, PrequentialMetrics, Result, log_loss, prequential

__all__ = [
    "ADWIN",
    "Baselines",
    "Detector",
    "Learner",
    "PageHinkley",
    "PrequentialMetrics",
    "Result",
    "ScoreHistory",
    "log_loss",
    "prequential",
]

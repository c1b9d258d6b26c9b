"""Prequential evaluation, scores of trivial predictions, their history, comparisons, and drift detectors."""

from .baselines import Baselines
from .comparison import PairedComparison, Scored
from .drift import ADWIN, Detector, PageHinkley
from .history import ScoreHistory
from .prequential import Learner, PrequentialMetrics, Result, log_loss, prequential

__all__ = [
    "ADWIN",
    "Baselines",
    "Detector",
    "Learner",
    "PageHinkley",
    "PairedComparison",
    "PrequentialMetrics",
    "Result",
    "ScoreHistory",
    "Scored",
    "log_loss",
    "prequential",
]

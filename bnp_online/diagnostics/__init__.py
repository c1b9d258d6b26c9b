"""Conditioning of the training of a network, with and without preconditioning."""

from .columns import Diagnosis, diagnose, diagnose_inputs, diagnose_layer, unevenness
from .hessian import Conditioning, condition_number, spectrum
from .spectra import Spectrum

__all__ = [
    "Conditioning",
    "Diagnosis",
    "Spectrum",
    "condition_number",
    "diagnose",
    "diagnose_inputs",
    "diagnose_layer",
    "spectrum",
    "unevenness",
]

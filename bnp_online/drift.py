"""Former place of `bnp_online.evaluation.drift`, importable for one release."""

from ._moved import names_of

__getattr__ = names_of("bnp_online.evaluation.drift", __name__)

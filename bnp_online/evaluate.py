"""Former place of `bnp_online.evaluation.prequential`, importable for one release."""

from ._moved import names_of

__getattr__ = names_of("bnp_online.evaluation.prequential", __name__)

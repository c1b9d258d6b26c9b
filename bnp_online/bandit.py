"""Former place of `bnp_online.contrib.bandit`, importable for one release."""

from ._moved import names_of

__getattr__ = names_of("bnp_online.contrib.bandit", __name__)

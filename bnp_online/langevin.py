"""Former place of `bnp_online.contrib.langevin`, importable for one release."""

from ._moved import names_of

__getattr__ = names_of("bnp_online.contrib.langevin", __name__)

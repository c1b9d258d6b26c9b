"""Experiments of the paper on BNP (JMLR 23(72))."""

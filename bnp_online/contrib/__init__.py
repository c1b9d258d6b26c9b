"""Algorithms that build on BNP: Langevin sampling and a contextual bandit."""

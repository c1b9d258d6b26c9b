"""Methods that build on BNP: samplers, intervals, bandits, optimizers."""

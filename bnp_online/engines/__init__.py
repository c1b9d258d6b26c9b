"""One learner step, behind one protocol."""

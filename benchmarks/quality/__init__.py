"""Prequential quality of the learner, against other learners."""

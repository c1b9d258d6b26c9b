"""The learning step on a GPU."""

"""Time and memory of one learning step, and start of the server."""

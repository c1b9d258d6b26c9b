"""Where a model's events go; the protocol is in ``base``, one implementation a module."""

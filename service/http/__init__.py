"""Bytes in, bytes out: the connection and its limits, bounded bodies, JSON, error envelopes.

It knows nothing of models. It may import `settings`, `schemas` and `errors`.
"""

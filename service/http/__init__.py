"""HTTP: connections and their limits, requests (head, bounded body, JSON), responses and error envelopes.

It does not depend on models. It may import `settings`, `schemas` and `errors`.
"""

"""HTTP: connections and their limits, requests (head, bounded body, JSON), responses and error envelopes.

`DESIGN.md` describes the path of a request. The package does not depend on models. It may import `settings`,
`schemas` and `errors`.
"""

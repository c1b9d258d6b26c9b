"""Who may call a route: scopes, API keys, and the checks before every route.

It may import `http`, `settings`, `schemas` and `errors`.
"""

"""Access control: scopes of routes, API keys, and the guard before every route.

It may import `http`, `settings`, `schemas` and `errors`.
"""

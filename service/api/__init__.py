"""The routes, one module per subject; `service.app` puts them together.

It may import everything except `cli` and `app`.
"""

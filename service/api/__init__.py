"""Routes of the server, one module per subject; `service.app` assembles them.

It may import everything except `cli` and `app`.
"""

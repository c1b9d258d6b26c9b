"""Logs, Prometheus metrics of requests and commits, progress of long operations, and their middleware.

It may import `http`, `settings`, `schemas` and `errors`.
"""

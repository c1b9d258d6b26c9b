"""Event log and checkpoints: protocols in `interfaces`, and their implementations.

`DESIGN.md` describes the events, the path of a commit and the invariants. It may import `telemetry` and the
packages below it.
"""

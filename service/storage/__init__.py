"""The event log and the checkpoints: protocols in `interfaces`, one implementation per module.

`DESIGN.md` describes the log, its events and its promises. It may import `telemetry` and what is below.
"""

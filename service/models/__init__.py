"""Live models: one writer per model, its checkpoints and its recovery.

`DESIGN.md` describes the path of a request and the invariants. It may import `storage`, `auth`,
`telemetry` and the packages below them.
"""

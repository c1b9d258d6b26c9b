"""Programs that measure the library and the server.

``python -m benchmarks`` lists them. Each prints tables and writes its figures as JSON, with versions,
processor and commit. A folder holds the programs of one subject: `quality`, `speed`, `serving`, `paper`,
`extensions`, `drift` and `gpu`. `common` is what they share.
"""

"""Programs that measure the library: each prints a table and writes JSON."""

"""Sample files: CSV, TSV, NDJSON, Parquet and Arrow, read row by row.

`read_samples` yields each row of a file as a `Row`, also an invalid one. `iter_samples` yields (x, y), as
River's streams do. The package imports neither PyTorch nor the server, and pyarrow only for Parquet, Arrow
and zstd.
"""

from .choices import Format
from .rows import Row, Samples
from .samples import iter_samples, read_samples
from .source import FileError

__all__ = ["FileError", "Format", "Row", "Samples", "iter_samples", "read_samples"]

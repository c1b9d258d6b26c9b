"""Sample files: CSV, TSV, NDJSON, Parquet and Arrow, read row by row.

`read_samples` yields each row of a file as a `Row`, also an invalid one. `iter_samples` yields (x, y), as
River's streams do. The package imports neither PyTorch nor the server, and pyarrow only for Parquet, Arrow
and zstd. `RowReader` reads rows of CSV that arrive one by one.
"""

from .choices import Format
from .rows import LineForm, Row, Samples
from .samples import iter_samples, read_samples
from .source import FileError
from .streams import Known, Roles, RowReader, string_features

__all__ = [
    "FileError",
    "Format",
    "Known",
    "LineForm",
    "Roles",
    "Row",
    "RowReader",
    "Samples",
    "iter_samples",
    "read_samples",
    "string_features",
]

"""Blocks: many lines with samples, parsed in compiled code by templates of earlier lines.

See ``DESIGN.md``. Public names: `Templates`, which reads the lines of a `padded` buffer into `Parsed`;
`Fields`, the names in a line; `joined`, which writes lines; `compile_kernels`. The package imports
only `bnp_online.values` and `jit`.
"""

from .joining import joined
from .scalars import Fields
from .templates import Parsed, Templates, compile_kernels, padded

__all__ = ["Fields", "Parsed", "Templates", "compile_kernels", "joined", "padded"]

"""Blocks: samples of one model that are read, checked, logged, learned, scored and answered together.

See ``DESIGN.md``. Public names: `Block`, the samples; `LineReader`, which finds blocks among lines; `Cells`,
the columns of lines of CSV; `model_of`, which tells the model of a line.
"""

from .block import Block
from .cells import Cells
from .lines import BlockLines, LineReader, model_of

__all__ = ["Block", "BlockLines", "Cells", "LineReader", "model_of"]

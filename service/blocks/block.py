"""Block: consecutive samples of one model, whose features and labels it knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from bnp_online.lines import Lines
from bnp_online.values import SampleRows


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Samples of one model, read from lines by templates.

    Attributes
    ----------
    rows : SampleRows
        The samples.
    lines : Lines
        The line of each sample: valid JSON, which the log stores unchanged.
    ids : dict of int to str
        Ids of the samples that have one, by position.
    """

    rows: SampleRows
    lines: Lines
    ids: Mapping[int, str]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, part: slice) -> Block:
        start, stop, _ = part.indices(len(self))
        ids = {i - start: each for i, each in self.ids.items() if start <= i < stop} if self.ids else {}
        return Block(self.rows.part(start, stop), self.lines[start:stop], ids)

    def decoded(self, position: int) -> tuple[Any, Any, Any]:
        """Return features, target or None, and weight of a sample, as the exact path decodes them."""
        fields = orjson.loads(self.lines[position])
        weight = fields.get("w")
        return fields["x"], fields.get("y"), 1.0 if weight is None else weight

"""JSON arrays in place of one object: an array of answers, in order, each an answer or an error."""

from __future__ import annotations

from typing import Any, TypeVar

from ..errors import BodyTooLargeError
from ..http.content import NDJSON
from ..http.requests import Shape, decode_items, read_item
from ..http.responses import encode, envelope
from ..models.access import Models
from ..models.worker import Worker
from .batch import Batch, Queue, Take

T = TypeVar("T")

#: Largest number of items.
MOST_ITEMS = 1000


async def answer_array(
    raw: bytes,
    shape: Shape,
    models: Models,
    take: Take[dict[str, Any], T],
    queue: Queue,
) -> bytes:
    """Return the array of answers to the items of an array, which are processed as single requests in order.

    Parameters
    ----------
    raw : bytes
        The array as JSON.
    shape : Shape
        Shape of an item.
    models : Models
        Models of the caller.
    take, queue : callable
        Decoder of the fields of an item, and queue of decoded items; see `service.api.batch`.

    Raises
    ------
    InvalidJsonError, DuplicateKeyError
        If the body is not valid JSON. No item was processed.
    BodyTooLargeError
        If the array has more than 1,000 items. No item was processed.
    """
    items = decode_items(raw, shape.x)
    if len(items) > MOST_ITEMS:
        raise BodyTooLargeError(
            f"the array has {len(items)} items, and at most {MOST_ITEMS} are allowed: send several arrays, "
            f"or one item per line with Content-Type: {NDJSON}"
        )

    async def taken(item: Any) -> tuple[Worker, T]:
        return await take(read_item(item, shape, models.settings))

    batch: Batch[Any, T] = Batch(items, models.fair_turns, "item")
    await batch.queue(taken, queue)
    return b"[%b]" % b",".join(await batch.answers(_answer))


def _answer(position: int, outcome: Any) -> bytes:
    """Return the answer to the item at a position; the field of an error starts with the position."""
    if not isinstance(outcome, Exception):
        return encode(outcome)
    _, body, _ = envelope(outcome)
    field = body["error"]["field"]
    body["error"]["field"] = f"[{position}].{field}" if field else f"[{position}]"
    return encode(body)

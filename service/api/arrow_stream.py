"""Bodies and responses that are streams of Arrow: one record batch after another.

The messages of the stream are found by their lengths, as lines are by their ends, and each may be as long as
a line. So a stream is learned while it arrives.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, NamedTuple

import orjson

from bnp_online import BNPClassifier
from bnp_online.files import Roles

from ..auth.scopes import ARROW
from ..blocks.arrow import ArrowRow, ArrowRows, Columns, pyarrow
from ..errors import BodyTooLargeError, InvalidRowError, InvalidTableError
from ..http.requests import Shape, check_fields
from ..models.hosted import HostedModel
from ..models.scheduling import SLICE, FairTurns
from ..models.worker import Uses, Worker
from ..settings import Settings
from .batch import Batch, Parts, Take
from .ndjson import Output

#: Columns that are no features, if the request names no others.
DEFAULTS = Roles("y", "id", "w")
_PREFIX = struct.Struct("<Ii")
_CONTINUATION = 0xFFFFFFFF
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3
_NAMES = {_SCHEMA: "schema", _DICTIONARY: "dictionary", _BATCH: "record batch"}


class Message(NamedTuple):
    """Message of a stream: its kind, its dictionary, and the bytes with the prefix."""

    kind: int
    dictionary: int
    content: bytes


class Messages:
    """Splitter of a stream of chunks into messages; it stores at most one.

    Parameters
    ----------
    limit : int
        Maximum length of a message in bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()
        self.ended = False

    def feed(self, chunk: bytes, last: bool) -> Iterator[Message]:
        """Yield the messages that end in a chunk.

        Raises
        ------
        InvalidTableError, BodyTooLargeError
            If the bytes are no messages, end within one, or one is compressed or too long.
        """
        self._rest += chunk
        start = 0
        while (size := self._size(start)) is not None:
            content = bytes(memoryview(self._rest)[start : start + size])
            start += size
            yield _message(content)
        del self._rest[:start]
        if self.ended and len(self._rest) > _PREFIX.size:
            raise _invalid("there are bytes behind its end")
        if last and self._rest and not self.ended:
            raise _invalid("it ends within a message: send it again, completely")

    def _size(self, start: int) -> int | None:
        """Return the length of the message at a position; None if it is not complete."""
        have = len(self._rest) - start
        if self.ended or have < _PREFIX.size:
            return None
        mark, metadata = _PREFIX.unpack_from(self._rest, start)
        if mark != _CONTINUATION:
            raise _invalid("it does not begin as one: write it with pyarrow.ipc.new_stream, not as a file")
        if metadata == 0:
            self.ended = True
            return None
        if metadata < 0 or metadata > self._limit:
            raise self._too_large()
        if have < _PREFIX.size + metadata:
            return None
        head = bytes(memoryview(self._rest)[start + _PREFIX.size : start + _PREFIX.size + metadata])
        size = _PREFIX.size + metadata + _body_length(head)
        if size > self._limit:
            raise self._too_large()
        return size if have >= size else None

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(
            f"a record batch has more than {self._limit} bytes (BNP_MAX_BODY_BYTES): write batches with "
            "fewer rows, as in Table.to_batches(max_chunksize=…)"
        )


def _invalid(reason: str) -> InvalidTableError:
    return InvalidTableError(f"the body is no stream of Arrow: {reason}")


class _Head:
    """Tables of the flatbuffer before a message."""

    def __init__(self, head: bytes) -> None:
        self._head = head

    def number(self, form: str, place: int) -> int:
        if place < 0:
            raise struct.error("negative position")
        found: int = struct.unpack_from(form, self._head, place)[0]
        return found

    def table(self, place: int) -> int:
        """Return the position of the table to which an offset leads."""
        return place + self.number("<I", place)

    def field(self, table: int, index: int) -> int:
        """Return the position of a field; 0 if the table lacks it."""
        layout = table - self.number("<i", table)
        if 4 + 2 * index >= self.number("<H", layout):
            return 0
        offset = self.number("<H", layout + 4 + 2 * index)
        return table + offset if offset else 0


def _body_length(head: bytes) -> int:
    reader = _Head(head)
    try:
        place = reader.field(reader.table(0), 3)
        length = reader.number("<q", place) if place else 0
    except struct.error:
        raise _invalid("a message is damaged") from None
    if length < 0:
        raise _invalid("a message has a negative length")
    return length


def _message(content: bytes) -> Message:
    """Return a message; refuse what the server does not read."""
    reader, dictionary = _Head(content[_PREFIX.size :]), 0
    try:
        message = reader.table(0)
        place = reader.field(message, 1)
        kind = reader.number("<B", place) if place else 0
        if kind not in _NAMES:
            raise _invalid("it has a message that is no schema, dictionary or record batch")
        batch = reader.table(reader.field(message, 2))
        if kind == _DICTIONARY:
            if (place := reader.field(batch, 2)) and reader.number("<B", place):
                raise _invalid(
                    "it has a part of a dictionary (a delta): write it with "
                    "IpcWriteOptions(emit_dictionary_deltas=False)"
                )
            dictionary = reader.number("<q", place) if (place := reader.field(batch, 0)) else 0
            batch = reader.table(reader.field(batch, 1))
        compressed = kind != _SCHEMA and reader.field(batch, 3)
    except struct.error:
        raise _invalid("a message is damaged") from None
    if compressed:
        raise InvalidTableError(
            "its record batches are compressed: write them with IpcWriteOptions(compression=None), and "
            "compress the body with gzip"
        )
    return Message(kind, dictionary, content)


class _Fed(io.RawIOBase):
    """File with the messages so far."""

    def __init__(self) -> None:
        self._data = b""

    def readable(self) -> bool:
        return True

    def feed(self, data: bytes) -> None:
        self._data += data

    def read(self, size: int = -1, /) -> bytes:
        size = len(self._data) if size is None or size < 0 else size
        part, self._data = self._data[:size], self._data[size:]
        return part


class ArrowStream:
    """Body that is a stream of Arrow.

    Parameters
    ----------
    roles, given : Roles
        Columns that are no features, and those of them that the request names.
    labelled : bool
        Whether a target is required.
    settings : Settings
        Limits.
    model : HostedModel
        The model that learns or predicts the rows.
    """

    def __init__(
        self, roles: Roles, given: Roles, *, labelled: bool, settings: Settings, model: HostedModel
    ) -> None:
        self._pa = pyarrow()
        self._roles, self._given, self._labelled = roles, given, labelled
        self._limit, self._most = settings.max_body_bytes, settings.max_features
        shape = model.estimator.input_shape
        self._shape = None if shape is None else tuple(shape)
        self._messages = Messages(self._limit)
        self._file = _Fed()
        self._reader: Any = None
        self._columns: Columns | None = None
        self._dictionaries: dict[int, int] = {}
        self._rows = 0

    def split(self, chunk: bytes, last: bool) -> Iterator[ArrowRows]:
        """Yield the rows of the record batches that end in a chunk.

        Raises
        ------
        InvalidTableError, BodyTooLargeError
            If the schema or a record batch cannot be read. Rows before it remain learned.
        """
        for message in self._messages.feed(chunk, last):
            if (rows := self._read(message)) is not None and len(rows):
                yield rows
        if last and self._columns is None:
            raise _invalid("it has no schema")

    def _read(self, message: Message) -> ArrowRows | None:
        if (message.kind == _SCHEMA) != (self._columns is None):
            raise _invalid("it has not exactly one schema, at its beginning")
        if message.kind == _DICTIONARY:
            self._dictionaries[message.dictionary] = len(message.content)
            if sum(self._dictionaries.values()) > self._limit:
                raise BodyTooLargeError(
                    f"the dictionaries have more than {self._limit} bytes (BNP_MAX_BODY_BYTES): send these "
                    "columns as strings"
                )
        self._file.feed(message.content)
        pa = self._pa
        try:
            if self._columns is None:
                self._reader = pa.ipc.open_stream(pa.PythonFile(self._file, "r"))
                self._columns = Columns(
                    self._reader.schema,
                    self._roles,
                    self._given,
                    labelled=self._labelled,
                    shape=self._shape,
                    most=self._most,
                )
            if message.kind != _BATCH:
                return None
            batch = self._reader.read_next_batch()
            batch.validate(full=True)
        except (pa.ArrowException, OSError, ValueError, StopIteration) as error:
            reason = str(error).partition("\n")[0]
            raise _invalid(f"its {_NAMES[message.kind]} is damaged: {reason:.200}") from None
        if batch.num_rows > 8 * len(message.content):
            raise _invalid(f"a record batch has {batch.num_rows} rows, and too few bytes for them")
        first, self._rows = self._rows + 1, self._rows + batch.num_rows
        return ArrowRows(self._columns, batch, first, len(message.content) / max(batch.num_rows, 1))

    def output(self, model: HostedModel) -> ArrowOutput:
        """Return the form of a response that is a stream of Arrow."""
        return ArrowOutput(model, self._labelled)


def read_row(row: ArrowRow, shape: Shape, settings: Settings) -> tuple[dict[str, Any], bytes]:
    """Return the fields of a row, and the row as JSON; raises as `service.http.requests.check`."""
    fields = {name: value for name, value in row.rows.fields(row.position).items() if name in shape.fields}
    if shape.y and fields["y"] is None:
        raise InvalidRowError(f"the row has no target in the column {row.rows.columns.target!r:.80}")
    return check_fields(fields, shape, settings, "row"), orjson.dumps(fields)


class RowBatch(Batch[ArrowRow, Any]):
    """A batch of rows to learn or to predict. Rows with known values are read as blocks.

    Parameters
    ----------
    items, fair_turns
        As for `Batch`.
    find : callable
        Returns the worker of the model, None if there is none now.
    """

    def __init__(
        self, items: ArrowRows, fair_turns: FairTurns, find: Callable[[], Awaitable[Worker | None]]
    ) -> None:
        super().__init__(items, fair_turns, "row")
        self._rows = items
        self._find = find

    async def _decode(self, take: Take[ArrowRow, Any], used: Uses) -> Parts[Any]:
        worker = await self._find()
        if worker is None:
            return await super()._decode(take, used)
        used.add(worker)
        parts: Parts[Any] = {worker: []}
        for exact, (positions, block) in enumerate(self._rows.blocks(worker.model.estimator)):
            if block is not None:
                parts[worker].append((positions, block))
                await self._fair_turns.next()
                continue
            if exact % SLICE == 0:
                await self._fair_turns.next()
            await self._take(take, positions[0], self._rows[positions[0]], parts, used)
        return parts


class ArrowOutput(Output):
    """Response that is a stream of Arrow: one row for each row of the body.

    Parameters
    ----------
    model : HostedModel
        The model.
    learns : bool
        Whether the rows are learned, and not predicted.
    """

    media_type = ARROW

    def __init__(self, model: HostedModel, learns: bool) -> None:
        pa = self._pa = pyarrow()
        estimator = model.estimator
        labels = estimator.labels if isinstance(estimator, BNPClassifier) else ()
        kinds = {str: pa.string(), int: pa.int64(), bool: pa.bool_()}
        self._kind: type = float if estimator.task == "regression" else type(labels[0]) if labels else str
        prediction = kinds.get(self._kind, pa.float64())
        fields = [("row", pa.int64()), ("step", pa.int64()), ("prediction", prediction)]
        if learns:
            fields += [("loss", pa.float64()), ("duplicate", pa.bool_())]
        else:
            fields += [("probabilities", pa.map_(pa.string(), pa.float64())), ("id", pa.string())]
        fields += [(name, pa.string()) for name in ("code", "message", "field")]
        self._schema = pa.schema(fields)
        self._sink = io.BytesIO()
        self._writer = pa.ipc.new_stream(self._sink, self._schema)
        self._row = 0

    def encode(self, answers: Sequence[bytes]) -> bytes:
        """Return answers as a record batch."""
        rows = [self._fields(orjson.loads(answer)) for answer in answers]
        columns = [
            self._pa.array([row.get(field.name) for row in rows], field.type) for field in self._schema
        ]
        self._writer.write_batch(self._pa.record_batch(columns, schema=self._schema))
        return self._taken()

    def end(self) -> bytes:
        """Return the end of the stream."""
        self._writer.close()
        return self._taken()

    def _taken(self) -> bytes:
        data = self._sink.getvalue()
        self._sink.seek(0)
        self._sink.truncate()
        return data

    def _fields(self, answer: dict[str, Any]) -> dict[str, Any]:
        self._row += 1
        if (error := answer.get("error")) is not None:
            return {**error, "row": self._row}
        prediction, found = answer["prediction"], {**answer, "row": self._row}
        if self._kind is float and prediction is not None:
            found["prediction"] = float(prediction)
        elif prediction is not None and type(prediction) is not self._kind:
            found["prediction"] = orjson.dumps(prediction).decode() if self._kind is str else None
        if "probabilities" in answer:
            found["probabilities"] = [*answer["probabilities"].items()]
        return found

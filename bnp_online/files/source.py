"""Bytes and text of a file: where they come from, compression, encoding, and the share that has been read."""

from __future__ import annotations

import codecs
import contextlib
import io
import itertools
import shutil
import sys
import tempfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from ..errors import BNPError

#: Bytes per read.
_SIZE = 1 << 16
_BOMS = (codecs.BOM_UTF8, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_BOM_CODECS = ("utf-8", "utf-32", "utf-32", "utf-16", "utf-16")
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
#: First bytes of files that are refused, and what to do.
_REFUSED = {
    b"PK\x03\x04": "is an Excel workbook or a zip archive: save the sheet as CSV, or unpack the archive",
    b"\xd0\xcf\x11\xe0": "is an Excel workbook: save the sheet as CSV",
    b"FEA1": "has the first version of Feather: write it with version 2, which is Arrow",
    b"BZh": "is compressed with bzip2: decompress it, or compress it with gzip or zstd",
    b"\xfd7zXZ": "is compressed with xz: decompress it, or compress it with gzip or zstd",
}


class FileError(BNPError, ValueError):
    """A file, or the options for it, cannot be read as samples; the message says what to do."""


class UnreadableRowError(Exception):
    """The file cannot be read from the next row on. The message is a predicate: "row 3 …"."""


class Source:
    """Bytes of a file, decompressed.

    Parameters
    ----------
    file : str, Path or binary file
        Path; "-" is standard input. An open file is not closed by `close`.

    Attributes
    ----------
    name : str
        Name of the file as given, for messages.
    head : bytes
        First bytes, at least 8 or the first line, unless there are fewer.
    progress : float or None
        Share of the file that has been read, where bytes do not tell it.
    """

    def __init__(self, file: str | Path | IO[bytes]) -> None:
        self._close = False
        self._file: IO[bytes]
        if str(file) == "-":
            self.name = "standard input"
            self._file = sys.stdin.buffer
        elif isinstance(file, str | Path):
            self.name = str(file)
            self._file = open(file, "rb")  # noqa: SIM115 (`close` closes it)
            self._close = True
        else:
            named = getattr(file, "name", None)
            self.name = named if isinstance(named, str) else "the file"
            self._file = file
        self._size = self._remaining()
        self._position = 0
        self.progress: float | None = None
        self._chunks: Iterator[bytes] = self._read()
        self._compressed = False
        self.head = b""

    def start(self) -> None:
        """Read the first bytes, and decompress from here on if they show a compressed file.

        Raises
        ------
        FileError
            If the file has a format that is known, and cannot be read.
        """
        head = self._peek()
        if head.startswith(_GZIP):
            self._chunks, self._compressed = _gunzip(self._chunks), True
        elif head.startswith(_ZSTD):
            self._chunks, self._compressed = _unzstd(self._chunks), True
        self.head = self._peek() if self._compressed else head
        for magic, what in _REFUSED.items():
            if self.head.startswith(magic):
                raise FileError(what)

    def close(self) -> None:
        """Close the file, unless it was passed as an open file."""
        if self._close:
            self._file.close()

    @property
    def fraction(self) -> float | None:
        """Share of the file that has been read; None for a pipe."""
        if self.progress is not None or self._size is None:
            return self.progress
        return min(1.0, self._position / self._size) if self._size else 1.0

    def stream(self) -> IO[bytes]:
        """Return the bytes as a file that is read once."""
        return io.BufferedReader(_Raw(self._chunks))

    @contextlib.contextmanager
    def random_access(self) -> Iterator[IO[bytes]]:
        """Yield the bytes as a file with random access; a pipe is first copied to a temporary file."""
        if self._size is not None and not self._compressed:
            self._file.seek(-self._position, io.SEEK_CUR)
            yield self._file
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(self.stream(), copy)
            copy.seek(0)
            yield copy

    def lines(self, encoding: str | None) -> Iterator[str]:
        """Return the lines of the text, with their ends; None finds the encoding by the first bytes."""
        if encoding is None and b"\0" in self.head and _encoding(self.head, None) == "utf-8":
            raise FileError("is no text: give a file of the format CSV, TSV, NDJSON, Parquet or Arrow")
        encoding = _encoding(self.head, encoding)
        return _without_bom(_lines(self._chunks, encoding))

    def _remaining(self) -> int | None:
        """Return the number of bytes, None for a pipe."""
        if not (hasattr(self._file, "seekable") and self._file.seekable()):
            return None
        here = self._file.tell()
        size = self._file.seek(0, io.SEEK_END) - here
        self._file.seek(here)
        return size

    def _read(self) -> Iterator[bytes]:
        """Yield the bytes as they arrive, without waiting for more."""
        read: Callable[[int], bytes] = getattr(self._file, "read1", self._file.read)
        while True:
            try:
                chunk = read(_SIZE)
            except OSError as error:
                error.filename = error.filename or self.name
                raise
            if not chunk:
                return
            if not isinstance(chunk, bytes):
                raise FileError("is open as text: open it in binary mode, 'rb'")
            self._position += len(chunk)
            yield chunk

    def _peek(self) -> bytes:
        taken: list[bytes] = []
        for chunk in self._chunks:
            taken.append(chunk)
            if sum(map(len, taken)) >= 8 or b"\n" in chunk:
                break
        self._chunks = itertools.chain(taken, self._chunks)
        return b"".join(taken)


class Lines(Iterator[str]):
    """Lines that can be read ahead.

    Parameters
    ----------
    lines : iterator of str
        The lines.

    Attributes
    ----------
    last : str
        The line that was taken last.
    taken : int
        Number of lines taken so far.
    """

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._ahead: deque[str] = deque()
        self._fault: FileError | UnreadableRowError | None = None
        self.last = ""
        self.taken = 0

    def __next__(self) -> str:
        if self._ahead:
            line = self._ahead.popleft()
        elif self._fault is not None:
            raise self._fault
        else:
            line = next(self._lines)
        self.last = line
        self.taken += 1
        return line

    def ahead(self, most: int) -> list[str]:
        """Return the next lines without taking them; a fault is raised once they are taken."""
        try:
            while len(self._ahead) < most and self._fault is None:
                self._ahead.append(next(self._lines))
        except StopIteration:
            pass
        except (FileError, UnreadableRowError) as fault:
            self._fault = fault
        return [*itertools.islice(self._ahead, most)]

    def skip(self, count: int) -> None:
        """Take lines that were read ahead."""
        for _ in range(count):
            self._ahead.popleft()
        self.taken += count


class _Raw(io.RawIOBase):
    """Chunks of bytes as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer)
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        part = self._rest[: len(view)]
        view[: len(part)] = part
        self._rest = self._rest[len(part) :]
        return len(part)


def _gunzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    inflate, within = zlib.decompressobj(31), True
    for chunk in chunks:
        rest = chunk if within else chunk.lstrip(b"\0")  # zeros may follow the last member
        data = b""
        while rest or len(data) == _SIZE:
            within = True
            try:
                data = inflate.decompress(rest, _SIZE)
            except zlib.error:
                raise UnreadableRowError("cannot be decompressed: the gzip file is damaged") from None
            if data:
                yield data
            rest = inflate.unconsumed_tail
            if inflate.eof:
                rest, within, data = inflate.unused_data.lstrip(b"\0"), False, b""
                inflate = zlib.decompressobj(31)
    if within:
        raise UnreadableRowError("is incomplete: the gzip file ends too early")


def _unzstd(chunks: Iterator[bytes]) -> Iterator[bytes]:
    pa = pyarrow("zstd")
    stream = pa.CompressedInputStream(pa.PythonFile(_Raw(chunks), "r"), "zstd")
    while True:
        try:
            data = stream.read(_SIZE)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.filename is not None:
                raise
            raise UnreadableRowError(
                "cannot be decompressed: the zstd file is damaged or incomplete"
            ) from None
        if not data:
            return
        yield data


def pyarrow(what: str) -> Any:
    """Return the module pyarrow.

    Raises
    ------
    FileError
        If it is not installed.
    """
    try:
        import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types
    except ModuleNotFoundError:
        raise FileError(f"is {what}, which needs pyarrow: pip install 'bnp-online[files]'") from None
    return pa


def _encoding(head: bytes, given: str | None) -> str:
    if given is not None:
        return given
    for bom, codec in zip(_BOMS, _BOM_CODECS, strict=True):
        if head.startswith(bom):
            return codec
    for codec, zeros in (
        ("utf-32-le", (2, 3)),
        ("utf-32-be", (0, 1)),
        ("utf-16-le", (1,)),
        ("utf-16-be", (0,)),
    ):
        if _has_zeros(head, zeros, 4 if codec.startswith("utf-32") else 2):
            return codec
    return "utf-8"


def _has_zeros(head: bytes, positions: tuple[int, ...], width: int) -> bool:
    """Return whether the first bytes have zeros as a wide encoding of text with ASCII has them."""
    head = head[: len(head) // width * width]
    counts = [head[i::width].count(0) for i in range(width)]
    length = len(head) // width
    if width == 4:
        return bool(length) and all(counts[i] == length for i in positions)
    (zero,) = positions
    return counts[zero] > length / 20 and counts[1 - zero] == 0


def _lines(chunks: Iterator[bytes], encoding: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)()
    rest = ""
    for chunk in itertools.chain(chunks, (b"",)):
        fault = None
        try:
            text = rest + decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            text = rest + error.object[: error.start].decode(encoding, "replace")
            fault = _undecodable(error)
        # The end of the last line may be cut in two: \r\n.
        whole = not chunk and fault is None
        end = len(text) if whole else 1 + max(text.rfind("\n"), text.rfind("\r", 0, -1))
        yield from io.StringIO(text[:end], newline="")
        if fault is not None:
            raise fault
        rest = text[end:]


def _undecodable(error: UnicodeDecodeError) -> UnreadableRowError:
    other = "utf-8" if error.encoding.startswith("utf-16") else "latin-1 or --encoding cp1252"
    byte = error.object[error.start]
    return UnreadableRowError(
        f"has the byte 0x{byte:02x}, which is not {error.encoding}: give the encoding of the file, such as "
        f"--encoding {other}"
    )


def _without_bom(lines: Iterator[str]) -> Iterator[str]:
    for first in lines:
        yield first.removeprefix("\ufeff")
        break
    yield from lines

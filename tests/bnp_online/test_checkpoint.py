from __future__ import annotations

import json
import os
import pickletools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save as save_bytes
from torch import Tensor

from bnp_online import checkpoint
from bnp_online.errors import CheckpointError, StateError

STATE: dict[str, Any] = {
    "estimator": "None that exists",
    "step": 2**60,
    "names": ["a", "\u00e9\u4e2d", "\ud800", '"=\n', ""],
    "labels": [True, False],
    "rate": 0.1,
    "nothing": None,
    "tensors": {
        "w": torch.tensor([[0.1, -0.0, 3e38], [1e-45, 2.0, 7.0]]),
        "moments": torch.tensor([1e-300, 2.0], dtype=torch.float64),
        "empty": torch.zeros(3, 0),
        "scalar": torch.tensor(5.0, dtype=torch.float64),
        "count": torch.tensor(3),
        "strided": torch.arange(6.0).reshape(2, 3).T,
        "range": torch.tensor([float("inf"), float("-inf"), float("nan")]),
    },
}
DATA = checkpoint.dumps(STATE)


def assert_equal(got: dict[str, Any], expected: dict[str, Any]) -> None:
    assert {**got, "tensors": None} == {**expected, "tensors": None}
    assert got["tensors"].keys() == expected["tensors"].keys()
    for name, tensor in expected["tensors"].items():
        assert got["tensors"][name].dtype == tensor.dtype
        assert got["tensors"][name].shape == tensor.shape
        assert got["tensors"][name].contiguous().numpy().tobytes() == tensor.contiguous().numpy().tobytes()


def test_bytes_come_back_to_the_last_bit() -> None:
    assert_equal(checkpoint.loads(DATA), STATE)
    assert checkpoint.dumps(checkpoint.loads(DATA)) == DATA
    assert checkpoint.dumps({**STATE, "tensors": dict(reversed(STATE["tensors"].items()))}) == DATA


def test_the_bytes_are_those_that_safetensors_writes() -> None:
    kinds = ["int64", "float64", "float32", "int32", "bfloat16", "float16", "int16", "int8", "uint8", "bool"]
    tensors = {
        f"{name}\u00e9{i}": torch.ones(i, 3, dtype=getattr(torch, kind))
        for i, kind in enumerate(kinds)
        for name in "ba"
    }
    data = checkpoint.dumps({"names": ["\u4e2d", '"\n\\'], "tensors": tensors})
    size = int.from_bytes(data[:8], "little")
    assert save_bytes(tensors, json.loads(data[8 : 8 + size])["__metadata__"]) == data


def test_bytes_can_be_kept_as_a_tensor() -> None:
    data = bytes(range(256)) * 3
    state = {"tensors": {"data": checkpoint.pack(data), "none": checkpoint.pack(b"")}}
    tensors = checkpoint.loads(checkpoint.dumps(state))["tensors"]
    assert checkpoint.unpack(tensors["data"]) == data
    assert checkpoint.unpack(tensors["none"]) == b""


def test_a_file_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, STATE)
    assert path.read_bytes() == DATA
    assert_equal(checkpoint.load(path), STATE)
    assert_equal(checkpoint.load(str(path)), STATE)
    assert [each.name for each in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_loaded_state_outlives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "model"
    checkpoint.save(path, STATE)
    state = checkpoint.load(path)
    checkpoint.save(path, {"tensors": {"w": torch.zeros(2, 3)}})
    path.unlink()
    assert_equal(state, STATE)


def test_the_file_is_safetensors_and_no_pickle() -> None:
    size = int.from_bytes(DATA[:8], "little")
    header = json.loads(DATA[8 : 8 + size])
    assert set(header) == {"__metadata__", *STATE["tensors"]}
    envelope = json.loads(header["__metadata__"]["bnp_online"])
    assert envelope["format"] == checkpoint.FORMAT == 1
    assert envelope["state"]["step"] == 2**60
    with pytest.raises(ValueError, match="opcode"):
        list(pickletools.genops(DATA))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"The folder does not exist: create it: .*/nowhere'$"):
        checkpoint.save(tmp_path / "nowhere" / "model", STATE)


@pytest.mark.parametrize(
    "change",
    [
        {"w": torch.zeros(2, 3)},
        {"w": STATE["tensors"]["w"].reshape(3, 2)},
        {"w": STATE["tensors"]["w"].view(torch.int32)},
        {"v": torch.zeros(1)},
        {"scalar": torch.tensor([5.0], dtype=torch.float64)},
        {"range": torch.tensor([float("inf"), float("-inf"), -float("nan")])},
    ],
)
def test_a_digest_sees_every_tensor(change: dict[str, Tensor]) -> None:
    tensors = STATE["tensors"]
    before = checkpoint.digest({"a": 1}, tensors)
    assert before == checkpoint.digest({"a": 1}, dict(reversed(tensors.items())))
    assert len(before) == 64
    assert checkpoint.digest({"a": 1}, {**tensors, **change}) != before


def test_a_digest_sees_every_entry_of_the_header() -> None:
    headers: list[dict[str, Any]] = [
        {"a": 1},
        {"a": True},
        {"a": 1.0},
        {"a": "1"},
        {"a": [1]},
        {"b": 1},
        {},
        {"a": 1, "b": None},
    ]
    assert len({checkpoint.digest(header, {}) for header in headers}) == len(headers)
    assert checkpoint.digest({"a": 1, "b": 2}, {}) == checkpoint.digest({"b": 2, "a": 1}, {})


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        checkpoint.dumps({"x": float("nan"), "tensors": {}})


def refused(tmp_path: Path, data: bytes) -> str:
    """Both readers refuse the bytes; return the message of the second."""
    with pytest.raises(CheckpointError):
        checkpoint.loads(data)
    path = tmp_path / "damaged"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path)
    assert isinstance(caught.value, StateError)
    return str(caught.value)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, len(DATA) // 2, len(DATA) - 1])
def test_a_file_cut_short_is_refused(tmp_path: Path, length: int) -> None:
    assert "cut short" in refused(tmp_path, DATA[:length])


def test_bytes_at_the_end_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, DATA + b"\0")


@given(position=st.integers(0, len(DATA) - 1), bits=st.integers(1, 255))
def test_a_byte_that_was_changed_anywhere_is_found(
    tmp_path_factory: pytest.TempPathFactory, position: int, bits: int
) -> None:
    data = bytearray(DATA)
    data[position] ^= bits
    path = tmp_path_factory.getbasetemp() / "changed"
    path.write_bytes(data)
    for read in (checkpoint.load, lambda path: checkpoint.loads(path.read_bytes())):
        try:
            state = read(path)
        except CheckpointError:
            continue
        assert_equal(state, STATE)  # white space or the order of keys: nothing that counts


@pytest.mark.parametrize("data", [b"", b"PK\3\4" + bytes(60), b"\x80\4]\x94.", b"{}", b"\xff" * 64, bytes(8)])
def test_another_kind_of_file_is_refused(tmp_path: Path, data: bytes) -> None:
    refused(tmp_path, data)


def with_header(text: str, data: bytes = b"") -> bytes:
    """Return a safetensors file with a header of one's own."""
    return len(text).to_bytes(8, "little") + text.encode() + data


@pytest.mark.parametrize(
    "header",
    [
        "[" * 100_000,
        "[]",
        '{"__metadata__":null}',
        '{"__metadata__":{"bnp_online":1}}',
        '{"__metadata__":{"bnp_online":"%s"}}' % ("[" * 100_000),
        '{"__metadata__":{"bnp_online":"{\\"format\\":1,\\"sha256\\":\\"\\",\\"state\\":[]}"}}',
    ],
)
def test_a_header_that_was_made_to_hurt_is_refused(tmp_path: Path, header: str) -> None:
    refused(tmp_path, with_header(header))


@pytest.mark.parametrize(("dtype", "size"), [("F8_E8M0", 4), ("F4", 2), ("F6_E2M3", 3), ("F6_E3M2", 3)])
def test_numbers_of_a_type_that_torch_lacks_are_refused(tmp_path: Path, dtype: str, size: int) -> None:
    tensor = {"dtype": dtype, "shape": [4], "data_offsets": [0, size]}
    refused(tmp_path, with_header(json.dumps({"w": tensor}), bytes(size)))


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
def test_a_safetensors_file_of_another_program_is_refused(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    assert "none that bnp_online wrote" in refused(tmp_path, save_bytes({"w": torch.zeros(2)}, metadata))


@pytest.mark.parametrize(
    "header",
    [
        "",
        "[]",
        "null",
        "3",
        "{}",
        '{"format":1}',
        '{"format":1,"sha256":"","state":3}',
        '{"format":1,"sha256":"","state":{"step":1e999}}',
    ],
)
def test_a_damaged_header_is_refused(tmp_path: Path, header: str) -> None:
    refused(tmp_path, save_bytes({"w": torch.zeros(2)}, {"bnp_online": header}))


def test_a_later_format_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 7)
    data = checkpoint.dumps(STATE)
    monkeypatch.undo()
    message = refused(tmp_path, data)
    assert "format 7" in message
    assert "upgrade" in message


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        checkpoint.save(tmp_path / "nowhere" / "model", STATE)


def test_a_header_has_names_in_utf_8_and_not_as_escapes(tmp_path: Path) -> None:
    """The length of a header is limited: with escapes, long names could be learned and not saved."""
    state = {"features": [f"{i}" + "\U0001f600" * 1000 for i in range(8192)], "tensors": {}}
    checkpoint.save(tmp_path / "model", state)
    assert_equal(checkpoint.load(tmp_path / "model"), state)
    assert (tmp_path / "model").stat().st_size < 34_000_000


def test_a_header_beyond_the_limits_of_the_reader_is_refused() -> None:
    data = checkpoint.dumps({"names": ["a"] * 1000, "tensors": {}})
    assert checkpoint.loads(data, longest_header=10_000, most_values=1100)["names"] == ["a"] * 1000
    for limits, problem in (
        ({"longest_header": 4000}, "bytes; the limit is 4000"),
        ({"most_values": 999}, "values; the limit is 999"),
    ):
        with pytest.raises(CheckpointError, match=problem):
            checkpoint.loads(data, **limits)
    escaped = data.replace(b",", b"\\u002c")
    escaped = (int.from_bytes(data[:8], "little") + len(escaped) - len(data)).to_bytes(8, "little") + escaped[
        8:
    ]
    with pytest.raises(CheckpointError, match="values; the limit is 999"):
        checkpoint.loads(escaped, most_values=999)


# --- an interrupted write


def fail(*args: object, **kwargs: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("function", ["fsync", "write", "replace"])
@pytest.mark.parametrize("before", [True, False])
def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, before: bool
) -> None:
    path = tmp_path / "model"
    if before:
        checkpoint.save(path, STATE)
    with monkeypatch.context() as patch:
        if function == "fsync":
            patch.setattr(os, "fsync", fail)
        elif function == "replace":
            patch.setattr(os, "replace", fail)
            patch.setattr(Path, "replace", fail)
        else:
            patch.setattr(checkpoint, "_parts", fail)
        with pytest.raises(OSError, match="No space"):
            checkpoint.save(path, {"tensors": {}})
    assert [each.name for each in tmp_path.iterdir()] == (["model"] if before else [])
    if before:
        assert_equal(checkpoint.load(path), STATE)


def test_the_new_file_is_flushed_before_it_takes_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    checkpoint.save(path, STATE)
    flushed: list[tuple[bool, bytes]] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        kind = os.fstat(descriptor).st_mode & 0o170000
        flushed.append((kind == 0o040000, path.read_bytes()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    new: dict[str, Any] = {"tensors": {}}
    checkpoint.save(path, new)
    # The file while the old one still has the name; then the folder, which keeps the names.
    assert flushed == [(False, DATA), (True, checkpoint.dumps(new))]

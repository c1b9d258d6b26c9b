"""The number of threads that learn a model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bnp_online import BNPClassifier, ConfigurationError
from bnp_online.engines.numba_engine import NumbaEngine
from bnp_online.threads import set_threads, threads


@pytest.fixture(autouse=True)
def _variable_again() -> Iterator[None]:
    set_threads(None)
    yield
    set_threads(None)


def test_it_is_that_of_the_variable_or_the_one_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BNP_THREADS", raising=False)
    assert threads() == 1
    monkeypatch.setenv("BNP_THREADS", "3")
    assert threads() == 3
    set_threads(2)
    assert threads() == 2
    model = BNPClassifier(hidden=(5,))
    model.learn_one({"a": 1.0}, "b")
    engine = model._engine
    assert isinstance(engine, NumbaEngine)
    assert len(engine._buffers.scratch) == 2
    set_threads(None)
    assert threads() == 3


@pytest.mark.parametrize("value", ["0", "two", "-1", "257", ""])
def test_an_invalid_variable_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNP_THREADS", value)
    with pytest.raises(ConfigurationError, match="BNP_THREADS"):
        BNPClassifier().learn_one({"a": 1.0}, "b")


@pytest.mark.parametrize("count", [0, -1, 257])
def test_a_number_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(ConfigurationError, match="256"):
        set_threads(count)
    assert threads() >= 1

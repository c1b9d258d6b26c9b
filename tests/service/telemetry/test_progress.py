from __future__ import annotations

import io
import logging

import pytest

from service.telemetry import progress as module
from service.telemetry.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_appears_on_a_terminal_after_a_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    shown = Terminal()
    with progress("learning", 10, shown) as done:
        done(5)
    assert shown.getvalue() == ""
    monkeypatch.setattr(module, "_DELAY", 0.0)
    monkeypatch.setattr(module, "_REFRESH", 0.0)
    with progress("learning", 10, shown) as done:
        done(5)
        done(7)
    assert "learning" in shown.getvalue()
    assert "7/10" in shown.getvalue()


@pytest.mark.parametrize(("total", "line"), [(10, "learning: 5 of 10, about "), (None, "learning: 5 done")])
def test_lines_appear_in_the_log_elsewhere(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, total: int | None, line: str
) -> None:
    caplog.set_level(logging.INFO)
    with progress("learning", total, io.StringIO()) as done:
        done(5)
    assert caplog.messages == []
    monkeypatch.setattr(module, "_LOG_EVERY", 0.0)
    with progress("learning", total, io.StringIO()) as done:
        done(5)
    (message,) = caplog.messages
    assert message.startswith(line)

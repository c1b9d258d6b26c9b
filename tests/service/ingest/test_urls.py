"""URLs of `BNP_INGEST`: what they may have, and the message for each mistake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.settings import Settings
from service.source_urls import SourceUrl, parse_all


def test_what_a_url_says(tmp_path: Path) -> None:
    config = tmp_path / "kafka.properties"
    config.write_text("# secrets\nsasl.username = me\nsasl.password=a=b\n\n")
    url = SourceUrl.parse(f"kafka://a:1,b/my.topic?model=m&from=latest&dead=d&group=g&config={config}")
    assert (url.hosts, url.path, url.topic) == (("a:1", "b:9092"), "my.topic", "kafka:my.topic")
    assert (url.model, url.start, url.dead, url.group) == ("m", "latest", "d", "g")
    assert url.config == {"sasl.username": "me", "sasl.password": "a=b"}
    url = SourceUrl.parse("nats://me:a%40b@[::1]/orders.*.eu?tls=on")
    assert (url.hosts, url.topic, url.user, url.password, url.tls) == (
        ("[::1]:4222",),
        "nats:orders.*.eu",
        "me",
        "a@b",
        True,
    )
    assert "a@b" not in repr(url)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://h/t", "must begin with kafka:// or nats://"),
        ("kafka://h", "must name a topic, as in kafka://host:9092/topic"),
        ("kafka://h/a b", "must name a topic"),
        ("kafka:///t", "no address of a broker"),
        ("kafka://h,/t", "no address of a broker"),
        ("kafka://h:x/t", "invalid port"),
        ("kafka://me:secret@h/t", "config=FILE"),
        ("kafka://h/t?modle=m", "no parameter 'modle': use model, from, dead, group, config"),
        ("nats://h/t?group=g", "no parameter 'group'"),
        ("kafka://h/t?model=", "model must have one value"),
        ("kafka://h/t?model=a&model=b", "model must have one value"),
        ("kafka://h/t?model=a/b", "must be the name of a model"),
        ("kafka://h/t?from=now", "from must be earliest or latest"),
        ("kafka://h/t?config=/none", "the file of config= cannot be read: /none: No such file"),
        ("nats://h/t?creds=/none", "the file of creds= cannot be read"),
    ],
)
def test_mistakes_in_a_url(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)) as found:
        SourceUrl.parse(text)
    assert "secret" not in str(found.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [("a=b\nc", "line 2: write NAME=VALUE"), ("auto.offset.reset=latest", "is set by the server: remove")],
)
def test_mistakes_in_a_file_of_properties(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "p"
    path.write_text(content)
    with pytest.raises(ValueError, match=expected):
        SourceUrl.parse(f"kafka://h/t?config={path}")


def test_a_topic_is_named_once_for_a_model() -> None:
    assert len(parse_all(["kafka://h/t?model=a", "kafka://h/t?model=b", "nats://h/t?model=a"])) == 3
    with pytest.raises(ValueError, match="'a' learns from kafka:t twice"):
        parse_all(["kafka://h/t?model=a", "kafka://other/t?model=a&from=latest"])


def test_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNP_INGEST", "kafka://h/t  nats://me:secret@h/s?model=m ")
    settings = Settings()
    assert [each.topic for each in settings.ingest] == ["kafka:t", "nats:s"]
    assert "secret" not in repr(settings)
    monkeypatch.setenv("BNP_INGEST", "kafka://h/t?x=1")
    with pytest.raises(ValueError, match="no parameter 'x'"):
        Settings()

"""URLs of the topics from which models learn (`BNP_INGEST`)."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from .schemas import DEFAULT_MODEL, NAME_PATTERN

#: Parameters of all URLs, and of each kind.
_COMMON = ("model", "from", "dead")
_OWN = {"kafka": ("group", "config"), "nats": ("tls", "ca", "cert", "key", "creds")}
#: Python module and package of the client of each kind.
_CLIENTS = {"kafka": ("confluent_kafka", "confluent-kafka"), "nats": ("nats", "nats-py")}
_PORTS = {"kafka": 9092, "nats": 4222}
_TOPICS = {
    "kafka": (r"[A-Za-z0-9._-]{1,249}", "a topic has up to 249 letters, digits, and . _ -"),
    "nats": (r"[^\s/]+", "a stream or subject has no spaces and no /"),
}
#: Properties of librdkafka on which exactly-once learning depends.
_RESERVED = (
    *("enable.auto.commit", "enable.auto.offset.store", "auto.offset.reset", "enable.partition.eof"),
    *("isolation.level", "group.id", "bootstrap.servers", "metadata.broker.list"),
)


@dataclass(frozen=True, slots=True)
class SourceUrl:
    """Topic of a broker, and the model that learns its messages.

    Attributes
    ----------
    kind : str
        ``"kafka"`` or ``"nats"``.
    hosts : tuple of str
        Addresses of the brokers, each as ``host:port``.
    path : str
        Topic of Kafka; stream or subject of NATS.
    model : str
        Name of the model.
    start : str
        Where a model without a stored position begins: ``"earliest"`` or ``"latest"``.
    dead : str or None
        Topic or subject for refused messages.
    group : str or None
        Consumer group of Kafka to which positions are reported.
    config : dict of str to str
        Further properties of librdkafka.
    tls : bool
        Whether NATS connections use TLS.
    files : dict of str to str
        Paths of NATS by parameter: ``ca``, ``cert``, ``key``, ``creds``.
    user, password : str or None
        Credentials for NATS.
    """

    kind: Literal["kafka", "nats"]
    hosts: tuple[str, ...]
    path: str
    model: str
    start: Literal["earliest", "latest"] = "earliest"
    dead: str | None = None
    group: str | None = None
    config: dict[str, str] = field(default_factory=dict, repr=False)
    tls: bool = False
    files: dict[str, str] = field(default_factory=dict)
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def topic(self) -> str:
        """Name of the topic in the event log and in metrics."""
        return f"{self.kind}:{self.path}"

    @classmethod
    def parse(cls, text: str) -> SourceUrl:
        """Return the parts of a URL.

        Raises
        ------
        ValueError
            If the URL is invalid, a file cannot be read, or the client of the broker is not installed.

        Examples
        --------
        >>> SourceUrl.parse("kafka://a,b:9093/samples?model=fraud&from=latest").hosts
        ('a:9092', 'b:9093')
        """
        parts = urlsplit(text)
        kind: Any = parts.scheme
        if kind not in _OWN:
            raise ValueError(f"a URL must begin with kafka:// or nats://, not {text.split('?')[0]!r:.80}")
        user, _, hosts = parts.netloc.rpartition("@")
        if kind == "kafka" and user:
            raise ValueError(
                "kafka:// has no user: put sasl.username and sasl.password into a file, config=FILE"
            )
        path = unquote(parts.path.strip("/"))
        pattern, allowed = _TOPICS[kind]
        if not re.fullmatch(pattern, path):
            example = "kafka://host:9092/topic" if kind == "kafka" else "nats://host:4222/stream"
            raise ValueError(f"the URL must name a topic, as in {example}; {allowed}")
        given = _parameters(parts.query, kind)
        _require_client(kind)
        name, _, password = user.partition(":")
        return cls(
            kind,
            _hosts(hosts, _PORTS[kind]),
            path,
            _model(given.get("model", DEFAULT_MODEL)),
            _one_of("from", given.get("from", "earliest"), ("earliest", "latest")),
            given.get("dead"),
            given.get("group"),
            _properties(Path(given["config"])) if "config" in given else {},
            _one_of("tls", given.get("tls", "off"), ("on", "off")) == "on" or bool({*given} & {"ca", "cert"}),
            {name: _readable(name, given[name]) for name in ("ca", "cert", "key", "creds") if name in given},
            unquote(name) or None,
            unquote(password) or None,
        )


def parse_all(words: Iterable[str]) -> tuple[SourceUrl, ...]:
    """Return the parts of URLs, which name each topic once for a model.

    Raises
    ------
    ValueError
        As `SourceUrl.parse`, and for a topic that is named twice for a model.
    """
    found: dict[tuple[str, str], SourceUrl] = {}
    for word in words:
        url = SourceUrl.parse(word)
        if (url.model, url.topic) in found:
            raise ValueError(f"model {url.model!r} learns from {url.topic} twice: name each topic once")
        found[url.model, url.topic] = url
    return tuple(found.values())


def _parameters(query: str, kind: str) -> dict[str, str]:
    known = (*_COMMON, *_OWN[kind])
    given: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            raise ValueError(f"{kind}:// has no parameter {name!r:.40}: use {', '.join(known)}")
        if name in given or not value:
            raise ValueError(f"the parameter {name} must have one value")
        given[name] = value
    return given


def _one_of(name: str, value: str, allowed: Collection[str]) -> Any:
    if value not in allowed:
        raise ValueError(f"{name} must be {' or '.join(allowed)}, not {value!r:.40}")
    return value


def _model(name: str) -> str:
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(f"model must be the name of a model, not {name!r:.80}")
    return name


def _hosts(text: str, port: int) -> tuple[str, ...]:
    hosts = []
    for host in text.split(","):
        parts = urlsplit(f"//{host}")
        if not parts.hostname or parts.netloc != host:
            raise ValueError(f"{host!r:.80} is no address of a broker: write host:port, several with commas")
        try:
            hosts.append(host if parts.port else f"{host}:{port}")
        except ValueError:
            raise ValueError(f"{host!r:.80} has an invalid port") from None
    return tuple(hosts)


def _readable(name: str, path: str) -> str:
    try:
        Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"the file of {name}= cannot be read: {path}: {error.strerror}") from None
    return path


def _properties(path: Path) -> dict[str, str]:
    """Return the properties in a file, as ``client.properties`` of Kafka."""
    found = {}
    for number, line in enumerate(Path(_readable("config", str(path))).read_text().splitlines(), 1):
        name, equals, value = (part.strip() for part in line.partition("="))
        if not line.strip() or line.strip()[0] in "#!":
            continue
        if not equals:
            raise ValueError(f"{path}, line {number}: write NAME=VALUE, with properties of librdkafka")
        if name in _RESERVED:
            raise ValueError(f"{path}, line {number}: {name} is set by the server: remove the line")
        found[name] = value
    return found


def _require_client(kind: str) -> None:
    module, package = _CLIENTS[kind]
    if importlib.util.find_spec(module) is None:
        raise ValueError(f"{kind}:// needs {package}: pip install 'bnp-online[{kind}]'")

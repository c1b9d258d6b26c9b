"""What a stream of lines answers: as the same samples one by one, and an error for each line that is none."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from river import datasets

from bnp_online import BNPClassifier
from tests.support.running import Json, Server, error
from tests.support.streaming import NDJSON, answers, post_lines, refusals, streaming, written

SEGMENTS: list[Json] = [{"x": x, "y": y} for x, y in list(datasets.ImageSegments())[:150]]


def test_a_stream_learns_as_a_loop_does(server: Server) -> None:
    lines: list[Json] = [{**line, "model": "streamed"} for line in SEGMENTS]
    lines[7]["w"] = 0.5
    lines[8]["id"] = "e-8"
    lines[9]["w"] = lines[9]["id"] = None
    lines[90]["x"] = {**lines[90]["x"], "late": 1.0, "town": "Oslo"}
    server.create(name="streamed")
    server.create(name="looped")
    streamed = post_lines(server, lines)
    looped = [server.learn(**{**line, "model": "looped"}) for line in lines]
    local = BNPClassifier(device="cpu")
    for line in lines:
        local.learn_one(line["x"], line["y"], w=1.0 if line.get("w") is None else line["w"])
    assert streamed == [{**answer, "model": "streamed"} for answer in looped]
    assert server.fingerprint("streamed") == server.fingerprint("looped")
    assert server.fingerprint("streamed")["model_sha256"] == local.fingerprint()
    assert server.get("/models/streamed/metrics") == server.get("/models/looped/metrics")


def test_a_stream_predicts_as_a_loop_does(server: Server) -> None:
    server.create(name="asked", hidden=[8])
    post_lines(server, [{**line, "model": "asked"} for line in SEGMENTS])
    before = server.fingerprint("asked")
    asked: list[Json] = [
        {"x": line["x"], "model": "asked", "id": f"t-{i}"} for i, line in enumerate(SEGMENTS)
    ]
    assert post_lines(server, asked, "/predict") == [server.predict(**line) for line in asked]
    assert server.fingerprint("asked") == before
    assert server.label("t-3", SEGMENTS[3]["y"], model="asked")["step"] == before["step"] + 1


BAD: list[tuple[bytes, str, str | None]] = [
    (b"{\n", "invalid_json", None),
    (b'{"x": {"a": 1}, "y": 1} {}\n', "invalid_json", None),
    (b'"\xff"\n', "invalid_json", None),
    (b'{"x": {"a": 1, "a": 1}, "y": "a"}\n', "duplicate_key", None),
    (b"[1]\n", "invalid_type", None),
    (b'{"x": {"a": 1}}\n', "missing_field", "y"),
    (b'{"x": {"a": 1}, "y": "a", "z": 1}\n', "unknown_field", "z"),
    (b'{"x": {"a": 1}, "y": "a", "id": ""}\n', "invalid_id", "id"),
    (b'{"x": {"a": 1}, "y": "a", "model": "nobody"}\n', "unknown_model", "model"),
    (b'{"x": {"a": [1]}, "y": "a"}\n', "invalid_feature", "x.a"),
    (b'{"x": {"a": 1e999}, "y": "a"}\n', "non_finite_feature", "x.a"),
    (b'{"x": {"a": 1}, "y": 1}\n', "label_type", "y"),
    (b'{"x": {"a": 1}, "y": "a", "w": -1}\n', "invalid_weight", "w"),
    (b'{"x": {"a": 3}, "y": "a", "id": "e-1"}\n', "id_conflict", "id"),
    (b'{"x": {"a": "' + b"long" * 300 + b'"}, "y": "a"}\n', "body_too_large", None),
]


def test_a_bad_line_is_answered_and_learning_goes_on(serve: Callable[..., Server]) -> None:
    server = serve(max_body_bytes=1000)
    good: list[Json] = [{"x": {"a": i}, "y": "ab"[i % 2], "id": f"e-{i}"} for i in range(len(BAD) + 2)]
    lines: list[Json | bytes] = [good[0], b"\n", good[1], b" \r\n"]
    for line, (bad, _, _) in zip(good[2:], BAD, strict=True):
        lines += [bad, line]
    answered = post_lines(server, lines)
    assert [line["step"] for line in answered if "step" in line] == list(range(1, len(good) + 1))
    wrong = [(line["line"], *error_of(line)) for line in answered if "error" in line]
    assert wrong == [(5 + 2 * i, code, field) for i, (_, code, field) in enumerate(BAD)]
    local = BNPClassifier(device="cpu")
    for line in good:
        local.learn_one(line["x"], line["y"])
    assert server.fingerprint()["model_sha256"] == local.fingerprint()


def error_of(line: Json) -> tuple[str, str | None]:
    assert line.keys() == {"error", "line"}
    assert line["error"].keys() == {"code", "message", "field"}
    assert line["error"]["message"]
    return line["error"]["code"], line["error"]["field"]


def test_a_step_that_is_refused_refuses_its_line_alone(server: Server) -> None:
    server.create(name="raw", standardize=False)
    lines = [{"x": {"a": float(i % 3)}, "y": i % 2, "model": "raw"} for i in range(40)]
    lines[25] = {"x": {"a": 1.0}, "y": 1, "w": 1e300, "model": "raw"}
    answered = post_lines(server, lines)
    assert refusals(answered) == {26: "non_finite_state"}
    assert [line["step"] for line in answered if "step" in line] == list(range(1, 40))
    local = BNPClassifier(device="cpu", standardize=False)
    for line in lines[:25] + lines[26:]:
        local.learn_one(line["x"], line["y"])
    assert server.fingerprint("raw")["model_sha256"] == local.fingerprint()


def test_an_id_is_learned_once(server: Server) -> None:
    server.create(name="ids")
    line = {"x": {"a": 1}, "y": "cat", "id": "e", "model": "ids"}
    other = {"x": {"a": 2}, "y": "dog", "model": "ids"}
    for _ in range(2):
        answered = post_lines(server, [line, line, other, line])
        assert [answer["duplicate"] for answer in answered][1::2] == [True, True]
        assert answered[3]["step"] == 1
    assert server.fingerprint("ids")["step"] == 3


def test_lines_may_be_for_different_models(server: Server) -> None:
    server.create(name="here")
    server.create(name="there", task="regression")
    lines: list[Json] = []
    for i in range(100):
        lines.append({"x": {"a": i % 5}, "y": "cat", "model": "here"})
        lines += [{"x": {"a": i % 5}, "y": 1.5 * i, "model": "there"}] * (i % 3)
    answered = post_lines(server, lines)
    assert [answer["model"] for answer in answered] == [
        line["model"] for line in lines if isinstance(line, dict)
    ]
    for name in ("here", "there"):
        steps = [answer["step"] for answer in answered if answer["model"] == name]
        assert steps == list(range(1, len(steps) + 1))


def test_lines_that_are_alone_at_their_models_are_learned_as_in_requests_of_their_own(
    serve: Callable[..., Server],
) -> None:
    """They are taken at once, and committed together; a line that one model refuses changes no other."""
    server = serve(max_models=50)
    for name in ("lines", "looped"):
        for i in range(20):
            server.create(name=f"{name}{i}", hidden=[2], replay=0)
    for step in range(4):
        lines: list[Json] = [{"x": {"a": step - i, "b": i}, "y": "ab"[(step + i) % 2]} for i in range(20)]
        lines[7]["y"] = lines[7]["y"] if step == 0 else 7
        lines[9]["id"] = f"s-{step}"
        streamed = post_lines(server, [{**line, "model": f"lines{i}"} for i, line in enumerate(lines)])
        if step:
            assert [error_of(each)[0] for each in streamed if "error" in each] == ["label_type"]
        for i, line in enumerate(lines):
            if i == 7 and step:
                assert server.post("/learn", **line, model=f"looped{i}").status_code == 422
            else:
                assert server.learn(**line, model=f"looped{i}") == {**streamed[i], "model": f"looped{i}"}
    for i in range(20):
        assert server.fingerprint(f"lines{i}") == server.fingerprint(f"looped{i}")
        assert server.get(f"/models/lines{i}/metrics") == server.get(f"/models/looped{i}/metrics")


@pytest.mark.parametrize("names", [["missing", "a", "b"], ["a", "missing", "b", "b"]])
def test_lines_of_two_models_are_learned_in_blocks_among_refused_ones(
    serve: Callable[..., Server], names: list[str]
) -> None:
    """The server has the models a and b."""
    server = serve()
    for name in ("a", "b"):
        server.create(name=name, hidden=[2])
    rng = np.random.default_rng(0)
    lines: list[Json] = [
        {"model": names[i % len(names)], "x": {"size": float(rng.normal())}, "y": "uv"[i % 2]}
        for i in range(600)
    ]
    # The first "model" in this line is a feature.
    lines[300] = {"x": {"size": 0.5, "model": "missing"}, "y": "u", "model": "b"}
    refused = {number: "unknown_model" for number, line in enumerate(lines, 1) if line["model"] == "missing"}
    with streaming(server) as stream:
        stream.send(*lines[:30])
        streamed = [stream.read() for _ in range(30)]  # blocks have labels that their model knows
        stream.send(*lines[30:])
        stream.end()
        streamed += stream.rest()
    assert refusals(streamed) == refused
    for name in ("a", "b"):
        assert server.registry.get(name).in_blocks > 100
        server.create(name="alone", hidden=[2])
        for answer, line in zip(streamed, lines, strict=True):
            if line["model"] == name:
                assert server.learn(**{**line, "model": "alone"}) == {**answer, "model": "alone"}
        assert server.fingerprint("alone")["model_sha256"] == server.fingerprint(name)["model_sha256"]
        assert server.client.delete("/models/alone").status_code == 204


def test_a_stream_for_many_models_learns_several_lines_of_each_at_once(serve: Callable[..., Server]) -> None:
    """Groups of 16 lines for 120 models would have one line of each."""
    models, rounds = 120, 12
    server = serve(max_models=2 * models + 1, group_size=16)
    for i in range(models):
        server.create(name=f"m{i}", hidden=[2], replay=0)
    rng, lines = np.random.default_rng(0), list[Json]()
    for _ in range(rounds):
        for i in rng.permutation(models).tolist():
            x = {"a": float(rng.normal()), "b": int(rng.integers(9))}
            lines.append({"model": f"m{i}", "x": x, "y": "cat" if x["a"] > 0 else "dog"})
    lines[700] = {"model": "m7", "x": {"a": 1.0, "b": 2}, "y": 3}
    known = 4 * models  # blocks have labels that their model knows
    streamed = post_lines(server, lines[:known])
    answered = post_lines(server, lines[known:])
    assert refusals(answered) == {701 - known: "label_type"}
    answered[700 - known]["line"] = 701
    streamed += answered
    assert sum(server.registry.get(f"m{i}").in_blocks for i in range(models)) > 0
    for i in range(0, models, 10):
        server.create(name="alone", hidden=[2], replay=0)
        for answer, line in zip(streamed, lines, strict=True):
            if line["model"] == f"m{i}":
                assert server.learn(**{**line, "model": "alone"}) == {**answer, "model": "alone"}
        assert server.fingerprint("alone")["model_sha256"] == server.fingerprint(f"m{i}")["model_sha256"]
        assert server.client.delete("/models/alone").status_code == 204


@pytest.mark.parametrize("content", [b"", b"\n", b" \r\n\n"])
def test_without_samples_there_are_no_answers(server: Server, content: bytes) -> None:
    answer = server.client.post("/learn", content=content, headers={"Content-Type": NDJSON})
    assert answers(answer) == []


def test_the_last_line_needs_no_end(server: Server) -> None:
    server.create(name="open", hidden=[2])
    line = written({"x": {"a": 1}, "y": 1, "model": "open"})
    assert [answer["step"] for answer in post_lines(server, [line, line.strip()])] == [1, 2]


def test_a_stream_may_be_longer_than_a_body(serve: Callable[..., Server]) -> None:
    server = serve(max_body_bytes=100)
    assert len(post_lines(server, [{"x": {"a": i}, "y": 1} for i in range(500)])) == 500


@pytest.mark.parametrize("kind", [f"{NDJSON}; charset=utf-8", "Application/X-NDJSON"])
def test_the_content_type_may_be_written_in_many_ways(server: Server, kind: str) -> None:
    answer = server.client.post("/predict", content=b'{"x": {}}\n{"x": {}}', headers={"Content-Type": kind})
    assert len(answers(answer)) == 2


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
def test_json_is_one_body(server: Server, kind: str) -> None:
    headers = {"Content-Type": kind}
    assert server.client.post("/predict", content=b'{"x": {}}\n', headers=headers).json()["id"] is None
    answer = server.client.post("/predict", content=b'{"x": {}}\n{"x": {}}', headers=headers)
    assert error(answer) == (400, "invalid_json", None)


def test_streams_are_counted(serve: Callable[..., Server]) -> None:
    server = serve()
    post_lines(server, [{"x": {"a": 1}, "y": 1}] * 3)
    text = server.client.get("/metrics").text
    assert 'bnp_http_requests_total{method="POST",route="/learn",status="200"} 1.0' in text
    assert 'bnp_model_learned_total{model="default"} 3.0' in text


QUESTION_LINES: list[Json | bytes] = [
    {"x": {"a": 1.5, "town": "Łódź"}},
    b'{"x": {"a": 1e999}}\r\n',
    b"\n",
    b'{"x"\n',
    {"x": {"a": "x" * 300}},
    {"x": {}, "model": None, "id": None},
    b'{"x": {"a": 2}}',
]
QUESTIONS = b"".join(written(line) for line in QUESTION_LINES)


@pytest.fixture(scope="module")
def whole(server: Server) -> list[Json]:
    """The answers to the questions when they come in one piece."""
    server.learn({"a": 1.0}, "cat")
    server.learn({"a": 2.0}, "dog")
    return post_lines(server, [QUESTIONS], "/predict")


@given(st.lists(st.integers(1, len(QUESTIONS) - 1), max_size=12))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_bytes_may_be_cut_anywhere(server: Server, whole: list[Json], places: list[int]) -> None:
    edges = [0, *sorted(set(places)), len(QUESTIONS)]
    with streaming(server, "/predict") as stream:
        for start, stop in itertools.pairwise(edges):
            stream.send(QUESTIONS[start:stop])
        stream.end()
        assert stream.rest() == whole


def test_two_requests_over_one_connection(server: Server) -> None:
    """Keep-alive works: both ways are at the end when the answer is."""
    server.create(name="again", hidden=[2])
    for step in (1, 2):
        assert post_lines(server, [{"x": {"a": 1}, "y": 1, "model": "again"}])[0]["step"] == step

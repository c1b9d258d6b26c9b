"""``--text``: a column whose strings are split into words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import bnp_online as bnp
from tests.support.commands import FAST, command
from tests.support.running import Server


def test_text_is_split_into_words_here_and_at_a_server(serve: Callable[..., Server], tmp_path: Path) -> None:
    """Although each row has another text; the model then knows its texts."""
    server, file, model = serve(), tmp_path / "mail.csv", tmp_path / "model"
    kinds = (("lunch", "no"), ("money", "yes"))
    file.write_text("title,spam\n" + "".join(f"{a} now {i},{y}\n" for i in range(110) for a, y in kinds))
    learn = ("learn", str(file), "--target", "spam")
    here, there = ("--save", str(model)), ("--url", server.url, "--model", "mail", "--task", "classification")
    for place in (here, there):
        assert command(*learn, "--text", "title", *FAST, *place).code == 0
    again = command(*learn, "--load", str(model), "--save", str(model))
    assert (again.code, again.err) == (0, "")
    assert command(*learn, *there[:4]).code == 0
    loaded = bnp.load(model)
    assert loaded.fields == server.get("/models/mail")["fields"] == {"title": 113}
    refused = command(*learn, "--text", "spam", "--load", str(model))
    assert refused.code == 2
    assert "has no text 'spam'" in refused.err
    for options, message in (
        (("--text", "titel"), "has no column 'titel', which --text names: is 'title' meant"),
        (("--text", "spam"), "--target and --text both name 'spam'"),
        (("--text", "title", "--drop", "title"), "--drop and --text both name 'title'"),
    ):
        refused = command(*learn, *options, *FAST)
        assert refused.code != 0
        assert message in refused.err
    hint = command(*learn, *FAST)
    assert "column 'title' is left out" in hint.err
    assert "--text title splits it into words, --keep title keeps it" in hint.err
    predicted = command("predict", str(file), "--target", "spam", "--load", str(model))
    assert (predicted.code, predicted.err) == (0, "")

"""Commands on the pages of the documentation: they work, and print the responses that the pages show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.docs.blocks import DOCS, agrees, blocks, matches, run

PAGES = [
    "tutorial.md",
    "how-to/open-inference.md",
    "how-to/send-samples.md",
    "how-to/recover.md",
    "how-to/secure.md",
    "how-to/strings.md",
    "how-to/explain.md",
    "how-to/networks.md",
    "how-to/shadows.md",
]


@pytest.mark.parametrize("page", PAGES)
def test_its_commands_work_and_answer_what_it_shows(page: str, tmp_path: Path) -> None:
    commands = list(blocks(DOCS / page))
    printed = run(commands, tmp_path)
    shown = [(block, text) for block, text in zip(commands, printed, strict=True) if block.answer is not None]
    assert shown
    for block, text in shown:
        assert agrees(block.answer, json.loads(text)), f"{block.text}\nanswers {text}"


def test_files_of_people_are_read_as_your_data_says(tmp_path: Path) -> None:
    commands = [each for each in blocks(DOCS / "how-to/your-data.md") if each.language == "sh"]
    printed = run(commands, tmp_path, messages=True)
    assert len(commands) == 10
    for block, text in zip(commands, printed, strict=True):
        if block.output is not None:
            assert matches(block.output, text), f"{block.text}\nprints\n{text}"
        elif block.answer is not None:
            assert agrees(block.answer, json.loads(text.strip().splitlines()[-1])), block.text
        else:
            pytest.fail(f"the page does not show what is printed by {block.text}")

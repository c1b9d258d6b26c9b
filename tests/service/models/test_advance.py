"""New events of a model, as a follower applies them: the bits of a recovery, without copies of the state."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.models import report, snapshot
from service.models.hosted import HostedModel
from service.models.recovery import Recovery
from service.models.validation import Learn, SampleEvent
from service.schemas import ModelSpec
from service.storage.checkpoints import CheckpointFiles
from service.storage.interfaces import Group, Record
from tests.service.models.test_durability import samples
from tests.support.hosted import Model

COUNT, SLICE = 120, 32


@contextlib.contextmanager
def logged(folder: Path, lr: float) -> Iterator[Model]:
    """Yield a model whose samples are in the log, and not applied yet."""
    model = Model(folder, ModelSpec(hidden=(4,), lr=lr))
    requests = [Learn(x, y) for x, y in samples(COUNT)]
    entries = model.hosted.validator(model.hosted.predict_pending, Counter()).take(requests)
    events = [entry.event for entry in entries if isinstance(entry, SampleEvent)]
    model.log.append([Group(model.history.model, model.history.branch, events)])
    with contextlib.closing(model.log):
        yield model


def slices(model: Model) -> list[list[Record]]:
    records = iter(list(model.history.read(model.history.model)))
    return list(iter(lambda: list(itertools.islice(records, SLICE)), []))


def recovery(model: Model) -> Recovery:
    return Recovery(model.history, CheckpointFiles(model.settings.data_dir), model.settings)


def advanced(model: Model) -> HostedModel:
    """Return the model after all samples, slice by slice."""
    following = recovery(model)
    hosted = following.base()
    for records in slices(model):
        hosted = following.advance(hosted, records)
    return hosted


def test_new_events_give_the_bits_of_a_recovery_and_copy_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with logged(tmp_path, lr=0.1) as model:
        expected = report.fingerprint(recovery(model).run())
        copies: list[object] = []
        monkeypatch.setattr(snapshot, "taking", copies.append)
        assert report.fingerprint(advanced(model)) == expected
    assert copies == []


def test_a_sample_that_makes_a_model_diverge_is_refused_as_in_a_recovery(tmp_path: Path) -> None:
    """The owner may have been killed before it recorded the refusal."""
    with logged(tmp_path, lr=1e11) as model:
        hosted = advanced(model)
        found = report.fingerprint(hosted)
        assert 0 < hosted.step < COUNT
        assert hosted.estimator.predict({"a": 1.0})
        assert found == report.fingerprint(recovery(model).run())

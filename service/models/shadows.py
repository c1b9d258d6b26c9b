"""Changes of the shadows of a model, as an operation makes them and as a replay of the log repeats them."""

from __future__ import annotations

from bnp_online.evaluation.comparison import PairedComparison

from ..schemas import ModelSpec
from .hosted import DIVERGED, HostedModel, Shadow
from .ledger import Ledger


def new_shadow(name: str, spec: ModelSpec, model: HostedModel) -> Shadow:
    """Return an untrained shadow of a model."""
    own = HostedModel(spec.model_copy(update={"name": model.name}), model.settings, model.clock)
    own.alias = name
    own.begin_shadow()
    return Shadow(own, PairedComparison(spec.task))


def add_shadow(model: HostedModel, shadow: Shadow, seq: int) -> None:
    """Add a shadow to a model, by the number of the event. It learns the samples after the event."""
    shadow.model.sequence = seq
    model.shadows[shadow.name] = shadow
    if model.ledger is None:
        model.ledger = Ledger()


def remove_shadow(model: HostedModel, name: str) -> None:
    """Remove a shadow from a model."""
    del model.shadows[name]
    if not model.shadows:
        model.ledger = None


def promote(model: HostedModel, name: str) -> HostedModel:
    """Return a shadow that has all samples of its champion, as the new champion.

    The former champion becomes a shadow. The comparisons begin anew: that of a shadow that lags behind, when
    it arrives at the event of the promotion.
    """
    promoted, former = model.shadows.pop(name).model, model.alias
    promoted.end_shadow(model)
    model.begin_shadow()
    promoted.shadows[former] = Shadow(model, PairedComparison(model.spec.task))
    return promoted


def diverge(shadow: Shadow) -> None:
    """End a shadow that has no finite prediction any more: it learns no further sample.

    A champion refuses such a sample, from a copy of its state. A shadow keeps no copy.
    """
    shadow.model = new_shadow(shadow.name, shadow.model.spec, shadow.model).model
    shadow.diverged, shadow.failure = True, DIVERGED


def trim(model: HostedModel) -> None:
    """Remove the losses of a model that all its shadows have been compared with."""
    if model.ledger is not None:
        following = [each.model.sequence for each in model.shadows.values() if not each.diverged]
        model.ledger.drop_until(min([model.sequence, *following]))

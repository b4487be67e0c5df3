"""Messages about heads whose training diverged. No Prefect here."""

from collections.abc import Mapping
from typing import Any

from storage.heads.current import current_head
from storage.heads.registry import has_finite_loss
from storage.layout import Store
from vision.training.head import LEARNING_RATES, HeadSpec


def divergence(store: Store, name: str, record: Mapping[str, Any]) -> str | None:
    """A line on where a training diverged, what to try, and what is kept; None if it did not diverge."""
    where = record.get("diverged")
    if where is None and has_finite_loss(record):
        return None
    parameter, lower, rate = _lower_rate(record["head"])
    return (
        f"the training diverged at a learning rate of {rate:g}: {_place(where)}; "
        f"try `{parameter}={lower:g}`. {_kept(store, name, record)}"
    )


def _place(where: Mapping[str, Any] | None) -> str:
    if where is None:
        return "the loss of the trained head is not finite"
    if where["step"] is None:
        return f"the validation loss of epoch {where['epoch']} is not finite"
    return f"the loss of step {where['step']} in epoch {where['epoch']} is not finite"


def _lower_rate(head: Mapping[str, Any]) -> tuple[str, float, float]:
    """The parameter of the learning rate, a lower rate to try, and the rate that was used."""
    usual = HeadSpec.fine_tune_learning_rate
    if head.get("fine_tune"):
        parameter, rate = "fine_tune_learning_rate", head.get("fine_tune_learning_rate", usual)
    else:
        usual = LEARNING_RATES[head["optimizer"]]
        parameter, rate = "learning_rate", head["learning_rate"] or usual
    return parameter, min(rate / 10, usual), rate


def _kept(store: Store, name: str, record: Mapping[str, Any]) -> str:
    if not has_finite_loss(record):
        return f"Head {name} is unusable and is not the current head"
    best = f"Head {name} keeps the best epoch before that (val_loss {record['metrics']['val_loss']:.4g})"
    if "base" in record:
        return best
    if current_head(store) == name:
        return f"{best}; it is the current head, because somebody promoted it"
    return f"{best}; it is not the current head, `{promote_command(store, name)}` makes it so"


def promote_command(store: Store, name: str) -> str:
    """The command that makes a head the current one, whatever its scores."""
    return store.command(f"promote {name}")

"""Errors of specs, weights and heads. `exit_status` is the status of the command that the error ends."""


class HeadError(ValueError):
    """A file is not a head, or Keras could load it only with custom code."""


class ExportError(ValueError):
    """An exported model does not give the probabilities of the head."""

    exit_status = 1


class SpecError(ValueError):
    """A feature space that cannot exist, or that this machine cannot compute."""

    exit_status = 2


class WeightsError(ValueError):
    """The weights cannot be used; the message says what to do."""

    exit_status = 2

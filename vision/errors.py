"""What can go wrong with specs, weights and heads: `exit_status` is that of the command that the error ends."""


class HeadError(ValueError):
    """A file is no head, or one that only code of its own could make work."""


class SpecError(ValueError):
    """A feature space that cannot be."""

    exit_status = 2


class WeightsError(ValueError):
    """The weights cannot be used; the message gives the way out."""

    exit_status = 2

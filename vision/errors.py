"""What can go wrong with specs, weights and heads."""


class HeadError(ValueError):
    """A file is no head, or one that only code of its own could make work."""


class SpecError(ValueError):
    """A feature space that cannot be."""


class WeightsError(ValueError):
    """The weights cannot be used; the message gives the way out."""

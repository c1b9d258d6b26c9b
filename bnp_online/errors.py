"""The errors of the library.

::

    BNPError
    ├── ConfigurationError (ValueError)      an argument of a constructor is out of range
    ├── UnsupportedLayerError (TypeError)    a layer with parameters that BNP does not cover
    ├── UnobservedLayerError (RuntimeError)  a gradient arrived for a layer whose input was not seen
    ├── SampleError (ValueError)             a sample cannot be learned or predicted
    ├── NonFiniteStateError (ArithmeticError)  a step would have made the model's state non-finite
    └── StateError (ValueError)              a state does not fit the object that is to take it
        └── CheckpointError                  a file is damaged, or is not a checkpoint
"""


class BNPError(Exception):
    """Base of every error that this library raises on purpose."""


class ConfigurationError(BNPError, ValueError):
    """An argument of a constructor is out of range.

    Parameters
    ----------
    field : str
        Name of the argument.
    message : str
        What is wrong and what to do.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(field, message)
        self.field = field
        self.message = message

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class UnsupportedLayerError(BNPError, TypeError):
    """A layer has parameters that BNP does not cover; list it in ``skip`` to leave it alone."""


class UnobservedLayerError(BNPError, RuntimeError):
    """A layer has a gradient, but no input of it was seen since the last ``step()``."""


class SampleError(BNPError, ValueError):
    """A sample cannot be learned or predicted; nothing was changed.

    Parameters
    ----------
    code : str
        A word for programs: ``"invalid_feature"``, ``"non_finite_feature"``, ``"wrong_shape"``,
        ``"invalid_label"``, ``"non_finite_label"``, ``"label_type"``, ``"too_many_classes"``,
        ``"invalid_weight"`` or ``"invalid_level"``.
    field : str
        The part of the sample at fault: ``"x.temperature"``, ``"y"``, ``"w"``.
    message : str
        What is wrong and what to do.
    """

    def __init__(self, code: str, field: str, message: str) -> None:
        super().__init__(code, field, message)
        self.code = code
        self.field = field
        self.message = message

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class NonFiniteStateError(BNPError, ArithmeticError):
    """A step would have made the model's state non-finite; the step was not taken."""


class StateError(BNPError, ValueError):
    """A state does not fit the object that is to take it; the object is unchanged."""


class CheckpointError(StateError):
    """A file is not a checkpoint of this library, or is damaged."""

"""Flat keyword parameters for functions that take options, and their validation."""

import inspect
import re
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, get_type_hints

import pydantic
from pydantic import Field

from storage.errors import InputError

REASON = re.compile(", (unable to|got a) .*")  # pydantic's reason; our message shows the value instead

Options = TypeVar("Options", bound=pydantic.BaseModel)


def checked(model: type[Options], values: dict[str, Any]) -> Options:
    """Validate the options of a model. Raises InputError with one line that names the flags."""
    try:
        return model(**values)
    except pydantic.ValidationError as error:
        # A field can have several errors, such as one per number of a list and one for their count. The first suffices.
        found = {item["loc"][:1] or (str(item),): item for item in reversed(error.errors())}
        raise InputError("; ".join(_complaint(item) for item in reversed(found.values()))) from error


def _complaint(item: Any) -> str:
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])  # our own message, which names its flag
    name = str(item["loc"][0]).replace("_", "-") if item["loc"] else "options"
    if item["type"] == "extra_forbidden":
        return f"{name} is not a parameter; see --help"
    expected = REASON.sub("", item["msg"]).replace("Input should be", "expected")
    return f"--{name}: {expected}, got {item['input']!r}"


def takes_options(function: Callable[[Any], Any]) -> Callable[..., Any]:
    """Turn the parameter `options` of a function, a pydantic model, into flat keyword parameters, one per field.

    Prefect builds its parameter form from the signature. With flat parameters `--param epochs=5` sets one field and
    leaves the others at their defaults; a nested model would have to be given whole.
    """

    model = get_type_hints(function)["options"]

    def flat(**parameters: Any) -> Any:
        return function(checked(model, parameters))

    flat.__name__, flat.__doc__, flat.__module__ = function.__name__, function.__doc__, function.__module__
    flat.__qualname__ = function.__qualname__
    flat.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                # Prefect overwrites a plain `description` with what it finds in the docstring.
                annotation=Annotated[
                    field.annotation, Field(json_schema_extra={"description": field.description}), *field.metadata
                ],
            )
            for name, field in model.model_fields.items()
        ]
    )
    return flat

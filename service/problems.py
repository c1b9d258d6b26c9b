"""Words for values that pydantic refuses, in settings and in JSON bodies.

They match those of `service.http.requests.check`, and use the terms of JSON.
"""

from __future__ import annotations

import json
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from bnp_online.client.schemas import DEVICE_PATTERN, NAME_PATTERN

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

    from bnp_online.client.schemas import ModelSpec

_INTEGER, _NUMBER, _BOOLEAN = "must be an integer", "must be a number", "must be true or false"
_ARRAY, _OBJECT = "must be an array", "must be an object"

#: Words by the type of a pydantic error; the names in braces are those of its context.
_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is not a known field",
    "int_type": _INTEGER,
    "int_parsing": _INTEGER,
    "int_parsing_size": _INTEGER,
    "int_from_float": _INTEGER,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": "must be a finite number",
    "bool_type": _BOOLEAN,
    "bool_parsing": _BOOLEAN,
    "string_type": "must be a string",
    "tuple_type": _ARRAY,
    "list_type": _ARRAY,
    "dict_type": _OBJECT,
    "model_type": _OBJECT,
    "greater_than": "must be greater than {gt:.12g}",
    "greater_than_equal": "must be at least {ge:.12g}",
    "less_than": "must be less than {lt:.12g}",
    "less_than_equal": "must be at most {le:.12g}",
    "literal_error": "must be {expected}",
    "too_short": "must have {min_length} or more entries",
    "too_long": "must have at most {max_length} entries",
    "string_too_short": "must have {min_length} or more characters",
    "string_too_long": "must have at most {max_length} characters",
    "value_error": "is not valid: {error}",
    "json_invalid": "is not valid JSON: {error}",
}
#: Begins the words for a value, after the name of its field.
_MUST = " must be "
#: Words for strings that do not match a pattern.
_PATTERNS = {
    NAME_PATTERN: "must have 1 to 64 letters, digits, and . _ -, and start with a letter or a digit",
    DEVICE_PATTERN: "must be auto, cpu, cuda, or a GPU by its number, such as cuda:1",
}


def explain(problem: ErrorDetails, name: str | None) -> str:
    """Return a message for one error of a pydantic `ValidationError`.

    Parameters
    ----------
    problem : dict
        Entry of ``ValidationError.errors()``.
    name : str or None
        Name of the field; None if the error is about the whole object.

    Examples
    --------
    >>> from pydantic import TypeAdapter, ValidationError
    >>> try:
    ...     TypeAdapter(int).validate_python("abc")
    ... except ValidationError as error:
    ...     print(explain(error.errors()[0], "BNP_PORT"))
    BNP_PORT must be an integer
    """
    context: dict[str, Any] = problem.get("ctx", {})
    if name is None and problem["type"] == "value_error":
        return str(context["error"])
    subject = "the body" if name is None else name
    if (pattern := context.get("pattern")) in _PATTERNS:
        return f"{subject} {_PATTERNS[pattern]}"
    words = _WORDS.get(problem["type"])
    return f"{subject}: {problem['msg']}" if words is None else f"{subject} {words.format(**context)}"


def first_problem(error: ValidationError, model: type[BaseModel]) -> tuple[str, str | None]:
    """Return the message for the first error of a pydantic model, and the field that it is about.

    Parameters
    ----------
    error : ValidationError
        Error of the model.
    model : type of BaseModel
        The model.

    Examples
    --------
    >>> from pydantic import ValidationError
    >>> from bnp_online.client.schemas import ModelSpec
    >>> for wrong in ({"hiden": (64,)}, {"lr": "fast"}):
    ...     try:
    ...         ModelSpec(**wrong)
    ...     except ValidationError as error:
    ...         print(first_problem(error, ModelSpec)[0])
    hiden is not a known field: did you mean hidden?
    lr must be a number, or 'auto'
    """
    return first_of(error.errors(include_url=False, include_input=False), model)


def first_of(problems: list[ErrorDetails], model: type[BaseModel]) -> tuple[str, str | None]:
    """Return the message for the first of the entries of ``ValidationError.errors()``, and its field."""
    first, *others = problems
    # The location includes the types of a union, which are no part of the field's name.
    start, *rest = first["loc"] or ("",)
    named = _holds_model(model, start)
    where = [start, *(part for part in rest if named or isinstance(part, int))]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where)[1:] or None
    message = explain(first, field)
    if len(rest) == 1 and not named:
        forms = [explain(each, "") for each in others if [*each["loc"]][:-1] == [start]]
        message += "".join(f", or {form.removeprefix(_MUST)}" for form in forms if form.startswith(_MUST))
    if first["type"] == "extra_forbidden" and not rest:
        if start in getattr(model, "FIXED", ()):
            return f"{start} does not change after the creation of a model: create another model", field
        near = get_close_matches(str(start), model.model_fields, 1)
        message += f": did you mean {near[0]}?" if near else ""
    if first["type"] == "missing" and not rest and (example := _example(model, str(start))) is not None:
        message += f": send it, such as {json.dumps({start: example})}"
    return message, field


def task_problem(spec: ModelSpec) -> tuple[str, str] | None:
    """Return why the task of a model does not have one of its parameters, and the parameter; else None."""
    if spec.task == "classification" and spec.intervals is not None:
        return "a classification has no intervals, it has probabilities: omit intervals", "intervals"
    if spec.task == "regression" and spec.max_classes is not None:
        return "a regression has no classes: omit max_classes", "max_classes"
    return None


def _example(model: type[BaseModel], name: str) -> Any:
    """Return the value of a field in the first example of a pydantic model; None without one."""
    extra = model.model_config.get("json_schema_extra")
    examples: Any = extra.get("examples") if isinstance(extra, dict) else None
    return examples[0].get(name) if examples else None


def _holds_model(model: type[BaseModel], name: Any) -> bool:
    """Return whether the value of a field is a pydantic model, or such a model or None."""
    field = model.model_fields.get(name)
    kinds = () if field is None else (field.annotation, *get_args(field.annotation))
    return any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds)

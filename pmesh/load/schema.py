"""The JSON Schema of load reports that ships with pmesh, and what of a document does not follow it.

A reader of foreign files should need no package for that, so this knows the part of JSON Schema (draft 2020-12)
that `report.schema.json` uses; the tests hold it against `jsonschema`.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["describe", "load_schema", "path_of", "schema_problem"]

_TYPES: Mapping[str, str] = {
    "object": "an object",
    "array": "an array",
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}


@functools.cache
def load_schema() -> dict[str, Any]:
    """The content of `report.schema.json`."""
    text = (importlib.resources.files("pmesh.load") / "report.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def schema_problem(value: object) -> str | None:
    """The first thing in which `value` does not follow the schema, with its JSON path; None when it does.

    Stricter than the schema where a report could not be built of a value: 5.0 is no integer, and a string holds
    no half of a surrogate pair.
    """
    return _problem(value, load_schema(), "")


def path_of(path: str, key: str | int) -> str:
    """The JSON path of what `key` names within `path`, for people: of a long key only its beginning."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    if len(key) > 60:
        key = f"{key[:57]}..."
    if not key.isidentifier():
        return f"{path}[{json.dumps(key)}]"
    return f"{path}.{key}" if path else key


def describe(value: object) -> str:
    """`value` in the words of JSON, on one line and not too long."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, int) and value.bit_length() > 64:
        return "a very large integer"  # Python refuses to write those of thousands of digits
    if value is not None and not isinstance(value, str | int | float):
        return f"a Python {type(value).__name__}"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _problem(value: object, schema: Mapping[str, Any], path: str) -> str | None:
    if "$ref" in schema:
        schema = load_schema()["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    if "anyOf" in schema:
        # The only choice that the schema gives is between something and null.
        return None if value is None else _problem(value, schema["anyOf"][0], path)
    if "const" in schema and value != schema["const"]:
        return f"{path} is {describe(value)}; it must be {describe(schema['const'])}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{path} is {describe(value)}; it must be one of {', '.join(map(describe, schema['enum']))}"
    return _type_problem(value, schema, path)


def _type_problem(value: object, schema: Mapping[str, Any], path: str) -> str | None:
    if "type" in schema:
        types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        if not any(_is_of(value, name) for name in types):
            expected = " or ".join(_TYPES[name] for name in types)
            return f"{path or 'the document'} is {describe(value)}; it must be {expected}"
    if isinstance(value, dict):
        return _object_problem(value, schema, path)
    if isinstance(value, list):
        problems = (_problem(item, schema["items"], path_of(path, index)) for index, item in enumerate(value))
        return next(filter(None, problems), None)
    if isinstance(value, str):
        return _text_problem(value, schema, path)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _range_problem(value, schema, path)
    return None


def _object_problem(value: Mapping[Any, object], schema: Mapping[str, Any], path: str) -> str | None:
    properties, others = schema["properties"], schema["additionalProperties"]
    for key in schema["required"]:
        if key not in value:
            return f"{path_of(path, key)} is missing"
    for key, item in value.items():
        if not isinstance(key, str):
            return f"{path or 'the document'} has the key {describe(key)}; keys must be strings"
        where = path_of(path, key)
        if not _is_text(key):
            return f"{where} has half of a surrogate pair in its name; it must be text"
        kind = properties.get(key, others)
        if kind is False:
            return f"{where} is no field of {load_schema()['properties']['schema']['const']}"
        problem = _problem(item, kind, where)
        if problem is not None:
            return problem
    return None


def _text_problem(value: str, schema: Mapping[str, Any], path: str) -> str | None:
    if not _is_text(value):
        return f"{path} is {describe(value)}, which holds half of a surrogate pair; it must be text"
    if len(value) < schema.get("minLength", 0):
        return f"{path} is {describe(value)}; it must be at least {schema['minLength']} long"
    return None


def _range_problem(value: float, schema: Mapping[str, Any], path: str) -> str | None:
    # Written so that NaN, which JSON does not have but Python's reader takes, is out of range.
    if "minimum" in schema and not value >= schema["minimum"]:
        return f"{path} is {describe(value)}; it must be at least {schema['minimum']}"
    if "maximum" in schema and not value <= schema["maximum"]:
        return f"{path} is {describe(value)}; it must be at most {schema['maximum']}"
    return None


def _is_of(value: object, name: str) -> bool:
    if name == "null":
        return value is None
    if name == "boolean":
        return isinstance(value, bool)
    if name == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    if name == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if name == "string":
        return isinstance(value, str)
    return isinstance(value, dict if name == "object" else list)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True

"""The OpenAPI document as rows that a template can lay out."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flask import Flask

METHODS = ("get", "post", "put", "patch", "delete")
UNTOLD = frozenset({"HEAD", "OPTIONS"})
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    kind: str
    is_required: bool
    description: str


@dataclass(frozen=True, slots=True)
class Answer:
    status: str
    description: str
    fields: list[Field]


@dataclass(frozen=True, slots=True)
class Operation:
    anchor: str
    method: str
    path: str
    summary: str
    description: str
    parameters: list[Field]
    body: list[Field]
    answers: list[Answer]


@dataclass(frozen=True, slots=True)
class Section:
    name: str
    description: str
    operations: list[Operation]


@dataclass(frozen=True, slots=True)
class OtherRoute:
    method: str
    path: str
    summary: str


def describe_specification(specification: Json) -> list[Section]:
    operations = list(_operations(specification))
    return [
        Section(
            tag["name"],
            tag.get("description", ""),
            [operation for name, operation in operations if name == tag["name"]],
        )
        for tag in specification.get("tags", [])
    ]


def describe_other_routes(app: Flask, specification: Json) -> list[OtherRoute]:
    """What is served but not part of the JSON API, described by the docstring of each view."""
    rules = sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule)
    return [
        OtherRoute(method, _in_braces(rule.rule), _docstring(app.view_functions[rule.endpoint]))
        for rule in rules
        for method in sorted((rule.methods or set()) - UNTOLD)
        if rule.endpoint != "static" and _in_braces(rule.rule) not in specification["paths"]
    ]


def _operations(specification: Json) -> Iterator[tuple[str, Operation]]:
    for path, item in specification["paths"].items():
        for method in METHODS:
            if method in item:
                operation = item[method]
                yield operation["tags"][0], _operation(specification, method, path, operation)


def _operation(specification: Json, method: str, path: str, operation: Json) -> Operation:
    return Operation(
        anchor=operation["operationId"],
        method=method.upper(),
        path=path,
        summary=operation.get("summary", ""),
        description=operation.get("description", "").replace("<br/>", " "),
        parameters=[_parameter(one) for one in operation.get("parameters", [])],
        body=_content_fields(specification, operation.get("requestBody", {})),
        answers=[
            Answer(status, answer.get("description", ""), _content_fields(specification, answer))
            for status, answer in sorted(operation["responses"].items())
        ],
    )


def _parameter(parameter: Json) -> Field:
    schema = parameter.get("schema", {})
    description = parameter.get("description") or schema.get("description", "")
    # Null only says that it may be left out.
    kind = _kind(schema).removesuffix(" or null")
    return Field(parameter["name"], kind, parameter.get("required", False), description)


def _content_fields(specification: Json, holder: Json) -> list[Field]:
    contents = list(holder.get("content", {}).values())
    return _fields(specification, contents[0].get("schema", {})) if contents else []


def _fields(specification: Json, schema: Json, above: str = "") -> list[Field]:
    """One row for each field, `items[].id` for those of an object inside."""
    schema = specification["components"]["schemas"][_ref_name(schema)] if "$ref" in schema else schema
    required = schema.get("required", [])
    rows = []
    for name, inner in schema.get("properties", {}).items():
        rows.append(Field(above + name, _kind(inner), name in required, inner.get("description", "")))
        inside, mark = _inside(inner)
        rows += _fields(specification, inside, f"{above}{name}{mark}.") if inside else []
    return rows


def _inside(schema: Json) -> tuple[Json, str]:
    """The object that a field holds, and how its path is marked."""
    choices = [*schema.get("anyOf", []), schema]
    found: Json = next((one for one in choices if "$ref" in one), {})
    if not found and schema.get("type") == "array" and "$ref" in schema.get("items", {}):
        return schema["items"], "[]"
    return found, ""


def _kind(schema: Json) -> str:
    """A schema in a few words: `text`, `list`, `whole number or null`."""
    if "$ref" in schema:
        return "object"
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(str(value) for value in schema["enum"])
    if schema.get("type") == "array":
        return "list"
    if schema.get("format") == "date-time":
        return "time"
    names = {"string": "text", "integer": "whole number", "boolean": "true or false"}
    kind = str(schema.get("type", "anything"))
    return names.get(kind, kind)


def _ref_name(schema: Json) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


def _in_braces(rule: str) -> str:
    return re.sub(r"<(?:[^<>:]+:)?([^<>]+)>", r"{\1}", rule)


def _docstring(view: object) -> str:
    return " ".join((inspect.getdoc(view) or "").split())

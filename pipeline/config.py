"""Strict YAML configuration: a misspelt key is an error that says what was meant.

A configuration is one YAML file read into a pydantic model, plus `key=value` overrides. Keys are dotted
(`dedup.near.threshold=0.7`); an item of a list is named by its index or, where items have a `name`, by that
name (`sources.wikitext.path=...`). Values are YAML (`workers=2`, `filter.rules=[basic]`).
"""

from __future__ import annotations

import types
import typing
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from mixloom.pipeline.errors import UserError, nearest

Model = TypeVar("Model", bound=BaseModel)


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice instead of silently taking the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                break  # refused below, with its place
            if key in seen:
                mark = key_node.start_mark
                raise UserError(
                    f"{mark.name}, line {mark.line + 1}: the key '{key}' is given twice",
                    fix="keep one of the two",
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def read_yaml(text: str, name: str) -> dict[str, Any]:
    """Parse YAML text into a mapping.

    Raises:
        UserError: not YAML, a duplicate key, or not a mapping; names the file, line and column.
    """
    try:
        loader = _StrictLoader(text)
        loader.name = name
        value = loader.get_single_data()
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{name}{where}: not valid YAML: {e.problem}", fix="correct that line") from None
    except yaml.YAMLError as e:
        what = " ".join(str(e).split())
        raise UserError(f"{name}: not valid YAML: {what}", fix="save the file as UTF-8 text") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(
            f"{name}: holds {type(value).__name__}, not 'key: value' lines", fix="see docs/config.md"
        )
    return value


def _step(node: Any, part: str, whole: str) -> Any:
    if isinstance(node, dict):
        return node.setdefault(part, {})
    if isinstance(node, list):
        return node[_index(node, part, whole)]
    raise UserError(
        f"override '{whole}': '{part}' cannot be set inside a plain value",
        fix="shorten the key to the value's own name",
    )


def _index(items: list[Any], part: str, whole: str) -> int:
    names = [x.get("name") for x in items if isinstance(x, dict)]
    if part in names:
        return names.index(part)
    if part.isdigit() and int(part) < len(items):
        return int(part)
    known = ", ".join(str(n) for n in names) or f"0..{len(items) - 1}"
    raise UserError(
        f"override '{whole}': there is no item '{part}'{nearest(part, [str(n) for n in names])}",
        fix=f"use one of: {known}",
    )


def apply_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply `key=value` overrides to a parsed configuration, in order (the tree is changed in place)."""
    for text in overrides:
        key, sep, raw = text.partition("=")
        if not sep or not key:
            raise UserError(f"'{text}' is not an override", fix="write key=value, for example workers=2")
        try:
            value = yaml.safe_load(raw)
        except yaml.YAMLError:
            value = raw
        node: Any = tree
        *parents, last = key.split(".")
        for part in parents:
            node = _step(node, part, key)
        if isinstance(node, list):
            node[_index(node, last, key)] = value
        elif isinstance(node, dict):
            node[last] = value
        else:
            raise UserError(
                f"override '{key}': the part before '{last}' is a plain value", fix="check the key"
            )
    return tree


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Every model class that can stand where this annotation is."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    origin = typing.get_origin(annotation)
    if origin is None:
        return []
    args = typing.get_args(annotation)
    if origin is typing.Annotated:
        args = args[:1]
    if origin in (dict,):
        args = args[1:]
    found: list[type[BaseModel]] = []
    if origin in (list, tuple, dict, typing.Union, typing.Annotated, types.UnionType):
        for a in args:
            found += _models_in(a)
    return found


def _literal(field: FieldInfo) -> tuple[Any, ...]:
    """The values of a Literal; () for any other annotation."""
    is_literal = typing.get_origin(field.annotation) is typing.Literal
    return typing.get_args(field.annotation) if is_literal else ()


def _allowed_at(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """Field names allowed in the mapping that a pydantic error location points into."""
    candidates = [model]
    for part in loc:
        if isinstance(part, int):
            continue
        # The tag of a discriminated union comes first: a tag may be called like a field of another member.
        tagged = [m for m in candidates if any((part,) == _literal(f) for f in m.model_fields.values())]
        nested = [f for m in candidates if (f := m.model_fields.get(part)) is not None]
        if tagged and len(candidates) > 1:
            candidates = tagged
        elif nested:
            candidates = [m for f in nested for m in _models_in(f.annotation)]
    return sorted({name for m in candidates for name in m.model_fields})


def _dotted(loc: Sequence[int | str], tree: Any) -> str:
    """The key as the user wrote it: union tags left out, list items by their name where they have one."""
    out: list[str] = []
    node = tree
    for i, part in enumerate(loc):
        if isinstance(part, int) and isinstance(node, list) and part < len(node):
            node = node[part]
            out.append(str(node["name"]) if isinstance(node, dict) and "name" in node else str(part))
        elif isinstance(node, dict) and part in node:
            node = node[part]
            out.append(str(part))
        elif isinstance(node, dict) and part not in node.values() and i == len(loc) - 1:
            out.append(str(part))  # a missing key; before the last there are tags, which may be defaults
    return ".".join(out)


def _describe(error: Any, model: type[BaseModel], tree: Any, name: str) -> tuple[str, str]:
    loc = error["loc"]
    key = _dotted(loc, tree)
    kind = error["type"]
    if kind == "extra_forbidden":
        allowed = _allowed_at(model, loc[:-1])
        what = f"{name}: unknown key '{key}'{nearest(str(loc[-1]), allowed)}"
        return what, f"use one of: {', '.join(allowed)}"
    if kind == "missing":
        return f"{name}: the key '{key}' is missing", "add it (see docs/config.md)"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        ctx = error.get("ctx", {})
        expected = str(ctx.get("expected_tags", "")).replace("'", "")
        field = str(ctx.get("discriminator", "format")).strip("'")
        tag = ctx.get("tag")
        if tag is None:
            return f"{name}: '{key}' has no '{field}'", f"add {field}: with one of: {expected}"
        hint = nearest(str(tag), expected.split(", "))
        return f"{name}: '{key}.{field}' is '{tag}'{hint}", f"use one of: {expected}"
    got = error.get("input")
    shown = f" is {got!r}" if isinstance(got, str | int | float | bool | type(None)) else ""
    message = error["msg"].removeprefix("Value error, ")
    fix = "correct the value"
    if kind == "string_type" and isinstance(got, str | int | float | bool):
        fix = f'put it in quotes: "{got}"'
    subject = f"'{key}'{shown}: " if key else ""  # what is wrong between keys names them itself
    return f"{name}: {subject}{message[0].lower()}{message[1:]}", fix


def validate(model: type[Model], tree: dict[str, Any], name: str) -> Model:
    """Read a parsed configuration into its model.

    Raises:
        UserError: every problem found, one line each, naming key, value, what is allowed and the fix.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as e:
        lines = [_describe(x, model, tree, name) for x in e.errors()]
    if len(lines) == 1:
        raise UserError(lines[0][0], fix=lines[0][1])
    raise UserError("\n".join(f"{what}\n  fix: {fix}" for what, fix in lines))


def load_config(model: type[Model], path: str | Path, overrides: Sequence[str] = ()) -> Model:
    """Load a YAML file into a model, with `key=value` overrides.

    Raises:
        UserError: the file is missing or unreadable, or anything in it is not allowed.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = sorted(p.name for p in file.parent.glob("*.yaml")) if file.parent.is_dir() else []
        near = f" In {file.parent} there are: {', '.join(beside)}." if beside else ""
        raise UserError(
            f"the configuration file {file} does not exist.{near}",
            fix="check the path" + nearest(file.name, beside),
        ) from None
    except IsADirectoryError:
        raise UserError(
            f"{file} is a folder, not a configuration file", fix="name the YAML file inside it"
        ) from None
    except OSError as e:
        raise UserError(f"{file} cannot be read: {e.strerror}", fix="check the path and its rights") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{file}: not UTF-8 text (byte {e.start})", fix="save the file as UTF-8") from None
    return validate(model, apply_overrides(read_yaml(text, str(file)), overrides), str(file))

"""The constructor is the schema: the parameters of a `_target_`, read from its source without importing it."""

from __future__ import annotations

import ast
import copy
import importlib.util
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from loralab.errors import Problem, invalid
from loralab.schema import ranges

Matcher = typing.Callable[[Any], str | None]
"""Gives the valid values in words, or None where the value is valid."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a constructor."""

    annotation: ast.expr | None
    default: ast.expr | None
    """None: it is required."""

    @property
    def required(self) -> bool:
        return self.default is None

    def is_default(self, value: Any) -> bool:
        """Whether `value` is what is written as its default."""
        try:
            return self.default is not None and ast.literal_eval(self.default) == value
        except ValueError:
            return False

    def mismatch(self, value: Any) -> str | None:
        """The valid values in words, where `value` is not one; None where it is valid."""
        return None if self.annotation is None else _mismatch(self.annotation, value)

    @property
    def is_null(self) -> bool:
        """Whether null is the only valid value."""
        return isinstance(self.annotation, ast.Constant)

    @property
    def is_built(self) -> bool:
        """Whether its value is an object, or several, each built from a node."""
        names = [part.id for part in ast.walk(self.annotation or ast.Constant(None)) if isinstance(part, ast.Name)]
        return any(name[0].isupper() and name not in _TYPING and not hasattr(ranges, name) for name in names)

    @property
    def choices(self) -> list[Any]:
        """The words or numbers that it accepts, where it is one of a few."""
        parts = [p for p in _alternatives(self.annotation) if isinstance(p, ast.Subscript)]
        literal = next((p for p in parts if ast.unparse(p.value) == "Literal"), None)
        if literal is None:
            return []
        inner = literal.slice.elts if isinstance(literal.slice, ast.Tuple) else [literal.slice]
        return [ast.literal_eval(choice) for choice in inner]

    @property
    def plain(self) -> type:
        """The plain type of its value: bool, int, float or str."""
        if self.choices:
            return type(self.choices[0])
        name = next(ast.unparse(p) for p in _alternatives(self.annotation) if isinstance(p, ast.Name))
        alias = getattr(ranges, name, None)
        return typing.get_args(alias)[0] if alias else {"bool": bool, "int": int, "float": float, "str": str}[name]

    @property
    def words(self) -> str:
        """The valid values, in words; "" where every value is valid."""
        return self.mismatch(object()) or ""


@cache
def parameters(target: str) -> dict[str, Parameter] | None:
    """The parameters of the class or function that a loralab `_target_` names; None where it does not exist."""
    module, _, name = target.rpartition(".")
    definition = _definitions(module).get(name)
    if isinstance(definition, ast.FunctionDef):
        return _of_function(module, definition)
    if isinstance(definition, ast.ClassDef):
        return _of_class(module, definition)
    return None


def misfits(path: str, target: str, given: dict[str, Any]) -> Iterator[Problem]:
    """Problems of values that are invalid for the constructor of `target`; keys that it does not have are ignored."""
    signature = parameters(target) or {}
    for key, value in given.items():
        if key in signature and (wrong := signature[key].mismatch(value)):
            yield invalid(f"{path}.{key}", value, wrong)


@cache
def _definitions(module: str) -> dict[str, ast.stmt]:
    """Top-level classes and functions of a module by name, and the imports that bind further names."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return {}
    if spec is None or spec.origin is None:
        return {}
    found: dict[str, ast.stmt] = {}
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf8")).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            found.update({alias.asname or alias.name: node for alias in node.names})
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node
    return found


class _Aliases(ast.NodeTransformer):
    """Replaces a name such as `Kind = Literal["a", "b"]` by its definition."""

    def __init__(self, module: str) -> None:
        self.module = module

    def visit_Name(self, name: ast.Name) -> ast.expr:
        if hasattr(ranges, name.id):
            return name
        node = _definitions(self.module).get(name.id)
        if isinstance(node, ast.Assign) and isinstance(node.value, (ast.Subscript, ast.BinOp)):
            return self.visit(copy.deepcopy(node.value))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("loralab."):
            return _Aliases(node.module or "").visit_Name(ast.Name(name.id, name.ctx))
        return name


def _annotation(module: str, annotation: ast.expr | None) -> ast.expr | None:
    return None if annotation is None else _Aliases(module).visit(copy.deepcopy(annotation))


def _of_function(module: str, function: ast.FunctionDef) -> dict[str, Parameter]:
    args = function.args
    positional = [*args.posonlyargs, *args.args]
    required = len(positional) - len(args.defaults)
    defaults = [*[None] * required, *args.defaults, *args.kw_defaults]
    annotated = zip([*positional, *args.kwonlyargs], defaults, strict=True)
    found = {a.arg: Parameter(_annotation(module, a.annotation), default) for a, default in annotated}
    found.pop("self", None)
    return found


def _of_class(module: str, definition: ast.ClassDef) -> dict[str, Parameter]:
    for node in definition.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return _of_function(module, node)
    found: dict[str, Parameter] = {}
    for base in definition.bases:
        found.update(_of_base(module, base))
    for node in definition.body if _is_dataclass(definition) else ():
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and not _is_derived(node):
            found[node.target.id] = Parameter(_annotation(module, node.annotation), node.value)
    return found


def _of_base(module: str, base: ast.expr) -> dict[str, Parameter]:
    node = _definitions(module).get(base.id) if isinstance(base, ast.Name) else None
    if isinstance(node, ast.ClassDef):
        return _of_class(module, node)
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("loralab"):
        return parameters(f"{node.module}.{base.id}") or {}  # type: ignore[union-attr]
    return {}


def _is_dataclass(definition: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in definition.decorator_list)


def _is_derived(node: ast.AnnAssign) -> bool:
    return "ClassVar" in ast.unparse(node.annotation) or (
        node.value is not None and "init=False" in ast.unparse(node.value)
    )


def _alternatives(annotation: ast.expr | None) -> list[ast.expr]:
    """The parts of a union."""
    if isinstance(annotation, ast.BinOp):
        return [*_alternatives(annotation.left), *_alternatives(annotation.right)]
    return [] if annotation is None else [annotation]


NODE, MAPPING = "a node with a _target_ (choose an option of the group)", "setting: value, …"

_TYPING = ("Any", "Annotated", "Callable", "Literal", "Mapping", "Optional", "Path", "Sequence")

_PLAIN: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "str": ((str,), "text"),
    "bool": ((bool,), "true or false"),
    "Path": ((str,), "a path"),
}


def _mismatch(annotation: ast.expr, value: Any) -> str | None:
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return _mismatch(ast.parse(annotation.value, mode="eval").body, value)
    if isinstance(annotation, ast.BinOp):
        return _mismatch_of_any([annotation.left, annotation.right], value)
    if isinstance(annotation, ast.Constant) and annotation.value is None:
        return None if value is None else "null"
    if isinstance(annotation, ast.Subscript):
        return _mismatch_of_generic(annotation, value)
    return _mismatch_of_name(ast.unparse(annotation).rpartition(".")[2], value)


def _mismatch_of_any(alternatives: list[ast.expr], value: Any) -> str | None:
    """A union: the words of all alternatives, unless the value is valid for one."""
    reasons = [_mismatch(alternative, value) for alternative in alternatives]
    return None if None in reasons else " or ".join(filter(None, reasons))


def _mismatch_of_name(name: str, value: Any) -> str | None:
    if name in _PLAIN:
        types, words = _PLAIN[name]
        fits = isinstance(value, types) and (bool in types or not isinstance(value, bool))
        return None if fits and value == value else words  # NaN is invalid
    if name in ("Any", "object"):
        return None
    alias = getattr(ranges, name, None)
    if typing.get_origin(alias) is typing.Annotated:
        plain, limits = typing.get_args(alias)
        words = f"{_PLAIN[plain.__name__][1]} {limits}"
        return words if _mismatch_of_name(plain.__name__, value) or value not in limits else None
    # any other class: a node that builds it
    return None if isinstance(value, dict) else NODE


def _mismatch_of_generic(annotation: ast.Subscript, value: Any) -> str | None:
    origin = ast.unparse(annotation.value).rpartition(".")[2]
    inner = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
    if origin == "Literal":
        choices = [ast.literal_eval(choice) for choice in inner]
        return None if any(value == c and type(value) is type(c) for c in choices) else " | ".join(map(str, choices))
    if origin in ("list", "Sequence", "tuple"):
        return _mismatch_of_list(inner, value, fixed=origin == "tuple" and ast.unparse(inner[-1]) != "...")
    if origin in ("dict", "Mapping"):
        if not isinstance(value, dict):
            return "a mapping"
        return next((f"{key}: {why}" for key, v in value.items() if (why := _mismatch(inner[1], v))), None)
    if origin == "Optional":
        return None if value is None else _mismatch(inner[0], value)
    if origin == "Annotated":
        return _mismatch(inner[0], value)
    return None  # Callable[…] and the like: given by code


def _mismatch_of_list(inner: list[ast.expr], value: Any, fixed: bool) -> str | None:
    if not isinstance(value, (list, tuple)) or (fixed and len(value) != len(inner)):
        return f"a list of {len(inner)}" if fixed else "a list"
    kinds = inner if fixed else [inner[0]] * len(value)
    why = next((why for kind, v in zip(kinds, value, strict=True) if (why := _mismatch(kind, v))), None)
    return why and (f"a list of mappings: [{{{MAPPING}}}]" if why == NODE else f"a list of {why}")

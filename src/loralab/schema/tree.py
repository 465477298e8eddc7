"""Nested settings, as plain values, by dotted keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Tree = dict[str, Any]


def get(tree: Any, key: str, default: Any = None) -> Any:
    """The value at a dotted key, or the default where the key does not exist."""
    node: Any = tree
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return default
        node = node[part]
    return node


def exists(tree: Any, key: str) -> bool:
    """Whether a dotted key exists in nested dicts and lists."""
    for part in key.split("."):
        if isinstance(tree, list) and part.isdigit() and int(part) < len(tree):
            tree = tree[int(part)]
        elif isinstance(tree, dict) and part in tree:
            tree = tree[part]
        else:
            return False
    return True


def leaves(tree: Mapping[Any, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting with its dotted key; a list or an empty mapping is one value."""
    for key, value in tree.items():
        inside = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping) and value:
            yield from leaves(value, inside)
        else:
            yield inside, value


def plain_values(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value with its dotted key, those in lists by number."""
    if isinstance(value, (dict, list)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from plain_values(part, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def nodes_and_leaves(tree: Mapping[Any, Any]) -> list[str]:
    """The dotted key of every setting, and of every mapping around it."""
    parts = [key.split(".") for key, _ in leaves(tree)]
    return list(dict.fromkeys(".".join(names[:end]) for names in parts for end in range(1, len(names) + 1)))


def is_node(value: Any) -> bool:
    """Whether something is built from the value."""
    return isinstance(value, dict) and "_target_" in value


def settings_of(path: str, node: Tree) -> Iterator[tuple[str, Any]]:
    """The settings of a node, without Hydra's own keys and without the `enabled` of callbacks, which run.py reads."""
    for key, value in node.items():
        if not (key.startswith("_") and key.endswith("_")) and not (key == "enabled" and path.startswith("callbacks.")):
            yield key, value

"""Reading a composed configuration, as plain values, by dotted keys."""

from __future__ import annotations

from typing import Any

Tree = dict[str, Any]


def get(tree: Tree, key: str, default: Any = None) -> Any:
    """The value at a dotted key, or the default where there is none."""
    node: Any = tree
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return default
        node = node[part]
    return node

"""URLs among the settings: what is on another machine, read and written through fsspec."""

from __future__ import annotations

import re
from importlib.util import find_spec
from urllib.parse import unquote, urlsplit

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/'\"]*@")
_QUERY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s?'\"]*)\?[^\s'\"]*")
_EXTRAS = {"s3fs": "loralab[s3]", "gcsfs": "loralab[gcs]"}
"""Packages that fsspec reads a scheme by → what brings one of a version that fits."""


def is_url(path: object) -> bool:
    """Whether a path is a URL; `file://` is one, too, until `plain` has made it a path."""
    return isinstance(path, str) and _URL.match(path) is not None


def plain(path: str) -> str:
    """A `file://` URL as the path it names; other URLs without a slash at the end; anything else as it is."""
    if not is_url(path):
        return path
    kind, _, place = path.partition("://")
    return unquote(urlsplit(path).path) if scheme(path) == "file" else f"{kind}://{place.rstrip('/')}"


def scheme(url: str) -> str:
    """Such as s3, in lower case."""
    return url.partition("://")[0].lower()


def below(root: str, path: str) -> str | None:
    """The rest of a path below a root; "" for the root itself, None where it is not in it."""
    if path == root:
        return ""
    return path[len(root) + 1 :] if path.startswith(f"{root}/") else None


def without_secrets(text: str) -> str:
    """A text without the user info and the query of the URLs in it."""
    return _QUERY.sub(r"\1", _USER.sub(r"\1", text)) if "://" in text else text


def unusable_url(url: str) -> tuple[str, str] | None:
    """What is wrong with a URL, and the remedy; nothing is asked of the network."""
    shown = without_secrets(url)
    if shown != url:
        remedy = "remove them; credentials come from the environment, such as AWS_ACCESS_KEY_ID"
        return f"'{shown}' was given with credentials or a query, which would be recorded", remedy
    kind = scheme(url)
    if not url.partition("://")[2].strip("/"):
        return f"'{url}' names no place", f"give a folder: {kind}://BUCKET/FOLDER"
    from fsspec.registry import get_filesystem_class, known_implementations, registry

    if kind not in known_implementations and kind not in registry:
        return f"'{url}' begins with an unknown scheme", "valid: file://, s3://, gs://, hf:// and others of fsspec"
    package = known_implementations[kind]["class"].partition(".")[0] if kind in known_implementations else "fsspec"
    if find_spec(package) is None:
        return f"'{url}' needs {package}, which is not installed", f"pip install '{_EXTRAS.get(package, package)}'"
    if package == "fsspec":  # whose own modules need others
        try:
            get_filesystem_class(kind)
        except ImportError as error:
            return f"'{url}' cannot be read: {error}", "install that package, or use another URL"
    return None

"""Why overrides do not compose: the errors of Hydra and OmegaConf as messages that a user can act on."""

from __future__ import annotations

import re

from loralab.errors import Problem


def composition_problem(error: Exception) -> Problem:
    """An error of Hydra or OmegaConf, shortened to what a user can act on."""
    if plugin := re.search(r"'hydra/(sweeper|launcher)/([a-z]+)", str(error)):
        kind, name = plugin.groups()
        return Problem(f"hydra/{kind}", f"'{name}' is not installed", f"install it: pip install hydra-{name}-{kind}")
    if twice := re.match(r"Multiple values for (\S+)\. To override .*: (\S+)'", str(error)):
        return Problem(
            twice[1], f"is already chosen; +{twice[1]} would add a second one", f"remove the +: {twice[1]}={twice[2]}"
        )
    if unknown := re.match(r"Error merging override (([\w./]+)=.*)", str(error)):
        cause = str(error.__cause__ or "").partition("\n")[0]
        return Problem(unknown[2], f"invalid value (given as {unknown[1]}){': ' * bool(cause)}{cause}")
    if unknown := re.match(r"Could not override '(hydra\.[\w.]+)'", str(error)):
        return Problem(unknown[1], "unknown setting of Hydra", "list those that there are with --cfg hydra")
    if key := re.search(r"^\s*full_key: (\S+)", str(error), re.MULTILINE):
        return _unresolved(key[1], str(error).partition("\n")[0])
    first, *rest = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return Problem("configuration", first, " ".join(rest))


def _unresolved(key: str, why: str) -> Problem:
    """A value that refers to something that does not exist."""
    if variable := re.search(r"Environment variable '(.*?)' not found", why):
        remedy = f"set it, or give a default: ${{oc.env:{variable[1]},…}}"
        return Problem(key, f"environment variable {variable[1]} not found", remedy)
    if name := re.search(r"Interpolation key '(.*?)' not found", why):
        return Problem(key, f"${{{name[1]}}} refers to an unknown setting", _of_interpolation(name[1]))
    return Problem(key, why)


def _of_interpolation(name: str) -> str:
    if name.startswith("hydra."):
        return f"write ${{hydra:{name.removeprefix('hydra.')}}} for a setting of Hydra"
    return (
        f"write ${{oc.env:{name}}} for an environment variable"
        if name.isupper()
        else "list every setting with --cfg job"
    )

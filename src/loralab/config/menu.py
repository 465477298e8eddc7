"""What `python train.py --help` prints: the groups of conf/ with their options, each in its own words."""

from __future__ import annotations

from loralab.config.compose import group_options, option_file

HEAD = """\
loralab trains LoRA adapters for Stable Diffusion.

  python train.py                                         the embedded model and images, in a minute or two
  python train.py model=sd15 data=folder data.folder=PATH your images
  python train.py optimizer=adam8bit adapter.rank=32      an option of a group, a setting
  python train.py -m optimizer.lr=1e-4,1e-3               a sweep: one run for each value
  python train.py --cfg job                               every setting as it is composed, without training
  python train.py resume=auto                             goes on where the same settings stopped
"""
FOOT = """\
Every setting and its meaning: docs/configuration.md; those of other trainers: docs/parameters.md.
Further tools: loralab --help
"""


def menu() -> str:
    """The help text."""
    lines = [HEAD, "Groups and their options:\n"]
    for group, options in group_options().items():
        lines.append(f"  {group}")
        width = max(map(len, options))
        lines += [f"      {option:{width}}  {first_comment(group, option)}" for option in options]
    return "\n".join([*lines, "", FOOT])


def first_comment(group: str, option: str) -> str:
    """What the option's YAML says it is for."""
    file = option_file(group, option)
    for line in file.read_text(encoding="utf8").splitlines() if file else ():
        if line.startswith("#") and "@package" not in line:
            return line.lstrip("# ").split(": python ")[0]
    return ""

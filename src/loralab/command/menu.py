"""What `python train.py --help` prints: the groups of conf/ with their options, each with its first comment."""

from __future__ import annotations

from loralab.schema.compose import group_options, option_file

HEAD = """\
loralab trains LoRA adapters for Stable Diffusion.

  python train.py                                         train the embedded model and images in a minute or two
  python train.py model=sd15 data=folder data.folder=PATH train on your own images
  python train.py optimizer=adam8bit adapter.rank=32      choose an option of a group, change a setting
  python train.py -m optimizer.lr=1e-4,1e-3               run a sweep: one run for each value
  python train.py --cfg job                               print every setting, without training
  python train.py --dry-run                               show number of runs, steps, time and disk, without training
  python train.py resume=auto                             resume the run with the same settings
"""
FOOT = """\
Every setting is explained in docs/configuration.md; settings of other trainers in docs/parameters.md.
More commands: loralab --help
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
    """The first comment of an option's YAML."""
    file = option_file(group, option)
    for line in file.read_text(encoding="utf8").splitlines() if file else ():
        if line.startswith("#") and "@package" not in line:
            return line.lstrip("# ").split(": python ")[0]
    return ""

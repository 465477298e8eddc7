"""The dialects of sd-scripts and of programs around it: each has NAMES (a file's keys → options) and read(content)."""

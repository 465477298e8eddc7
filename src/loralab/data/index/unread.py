"""Files in a folder of images that are not read, by kind and with counts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Set

from loralab.data.captions import read_caption
from loralab.data.folders import Folder
from loralab.data.index.walk import Directory
from loralab.data.sources.mounts import absolute
from loralab.errors import UserError
from loralab.files import printable
from loralab.remote import Unreachable

_NAMED = 6
"""Maximum number of names and endings that are listed, the most frequent ones first."""
_TABLES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow")
_UNSUPPORTED = (
    *(".psd", ".psb", ".xcf", ".kra", ".clip", ".svg", ".eps", ".ai", ".pdf", ".tga", ".dds", ".ico", ".exr", ".hdr"),
    *(".jp2", ".j2k", ".jpx", ".jxr", ".pcx", ".ppm", ".pgm", ".pbm", ".qoi", ".raw", ".dng", ".cr2", ".cr3", ".nef"),
    *(".arw", ".orf", ".rw2", ".raf", ".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi"),
)
_ARCHIVES = (".zip", ".cbz", ".rar", ".cbr", ".7z", ".cb7", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst")


class Unread:
    """Collects the files of a folder that are neither images nor belong to one."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._system: Counter[str] = Counter()
        self._beside: Counter[str] = Counter()
        """Files named like an image, by what they have instead of its extension."""
        self._first: dict[str, bytes] = {}
        self._kinds: dict[str, Counter[str]] = {"stray": Counter(), "unsupported": Counter(), "archives": Counter()}
        self._kinds |= {"tables": Counter(), "others": Counter()}

    def look(self, directory: Directory) -> None:
        """Adds the files of one directory."""
        names = set(directory.images.names)
        stems = {name.rpartition(b".")[0] for name in names}
        self._system.update("._*" if name.startswith(b"._") else _shown(name) for name in directory.hidden)
        cut = len(os.fsencode(self.folder.extension))
        for name in directory.texts.names:
            stem = name[:-cut]
            if stem in names:
                self._add_beside(directory, name, stem[stem.rfind(b".") :] + name[-cut:])
            elif stem not in stems:
                self._kinds["stray"][_shown(name)] += 1
        texts = {name[:-cut] for name in directory.texts.names}
        unread = [name for name in directory.samples.names if name.rpartition(b".")[0] not in stems - texts]
        given = absolute(self.folder.metadata) if self.folder.metadata else None
        for name in (*directory.others, *unread, *(directory.tables if given else ())):
            raw = os.fsencode(name)
            if os.fsdecode(os.path.join(directory.path, raw)) != given:
                self._add(directory, raw, stems)

    def _add(self, directory: Directory, name: bytes, stems: Set[bytes]) -> None:
        ending = _shown(name[name.rfind(b".") :] if b"." in name else name).lower()
        if ending in _UNSUPPORTED:
            self._kinds["unsupported"][f"*{ending}"] += 1
        elif ending in _ARCHIVES:
            self._kinds["archives"][_shown(name)] += 1
        elif beside := _ending(name, stems):
            self._add_beside(directory, name, beside)
        elif ending in _TABLES:
            self._kinds["tables"][_shown(name)] += 1
        else:
            self._kinds["others"][f"*{ending}" if b"." in name else _shown(name)] += 1

    def _add_beside(self, directory: Directory, name: bytes, ending: bytes) -> None:
        self._beside[_shown(ending)] += 1
        self._first.setdefault(_shown(ending), os.path.join(directory.path, name))

    def notes(self) -> Iterator[str]:
        """One line per kind."""
        kinds = {name: Counter(counts) for name, counts in self._kinds.items()}
        setting = self.folder.captions_setting
        for ending, count in self._beside.most_common():
            if _is_caption(self._first[ending]):
                files = f"{count} {'file' if count == 1 else 'files'} *{ending} beside images not read"
                remedy = f"set {setting}={ending} to use them as captions"
                yield f"{files}, as {setting} is {self.folder.extension}: {remedy}"
            else:
                kinds["others"][f"*{ending}"] += count
        words = {
            "stray": "caption files without an image: {}",
            "tables": f"not read: {{}}; {self.folder.beside('metadata')}=PATH reads captions from such a file",
            "unsupported": "images and videos of an unsupported format, skipped: {}; convert them to PNG or JPEG",
            "archives": "archives, skipped: {}; extract them to use the images in them",
            "others": "other files, not read: {}",
        }
        for kind, line in words.items():
            if kinds[kind]:
                yield line.format(_listed(kinds[kind]))
        if self._system:
            yield f"hidden and system files and folders, skipped: {_listed(self._system)}"


def _ending(name: bytes, stems: Set[bytes]) -> bytes:
    """The rest of a file's name after the longest image name that it starts with; empty if there is none."""
    dot = name.rfind(b".")
    while dot > 0:
        if name[:dot] in stems:
            return name[dot:]
        dot = name.rfind(b".", 0, dot)
    return b""


def _is_caption(path: bytes) -> bool:
    """Whether a file holds plain text, rather than binary data or markup."""
    try:
        text = read_caption(os.fsdecode(path))
    except Unreachable:
        raise
    except (UserError, OSError):
        return False
    return bool(text) and text[0] not in "<{["


def _listed(counts: Counter[str]) -> str:
    """`3 (a.txt, b.txt, c.txt)`, `12: 10 *.psd, 2 *.mp4`, or only the names if each occurs once."""
    listed = [name if count == 1 else f"{count} {name}" for name, count in counts.most_common(_NAMED)]
    more = f" and {len(counts) - _NAMED} more" if len(counts) > _NAMED else ""
    return f"{counts.total()} ({', '.join(listed)}{more})"


def _shown(name: bytes) -> str:
    return printable(os.fsdecode(name))

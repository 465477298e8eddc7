"""A folder of an object store: its files are listed once, and each is read whole."""

from __future__ import annotations

from dataclasses import dataclass

from loralab import remote
from loralab.data.sources.downloads import Downloads
from loralab.data.sources.listing import Listing, Where


@dataclass(frozen=True)
class Bucket:
    """Files below a URL."""

    root: str
    setting: str
    """Where it was given, for messages."""
    listing: Listing
    downloads: Downloads

    def read(self, file: Where) -> bytes:
        """The bytes of a file. Raises FileNotFoundError, or Unreachable."""
        url = f"{self.root}/{file.name.decode('utf8', 'surrogateescape')}"
        key = f"{url} {file.stamp} {file.size}"
        return self.downloads.get(key, file.size, lambda: self._fetch(url, file.size))

    def _fetch(self, url: str, size: int) -> bytes:
        # as a range: a whole file would be asked for its size first
        return remote.read(url, self.setting, 0, size) if size else b""

    def told(self) -> str:
        """What it is, for the opening lines of a run."""
        return f"{self.root}: {len(self.listing):,} files, {self.listing.bytes / 1e9:.2f} GB"

"""Labels on pictures, in a font that has their characters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

SIZES = (13, 36)
"""Pixels; between them a label grows with the pictures, as a large sheet is looked at from further away."""
FONTS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "arial.ttf", "Arial Unicode.ttf"),
    *("NotoSansCJK-Regular.ttc", "msyh.ttc", "msgothic.ttc", "malgun.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc"),
    *("wqy-zenhei.ttc", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf", "unifont.ttf"),
)
"""Of the usual systems, by file name: tried in this order where Pillow's own font, which is Latin, lacks a letter."""
NO_CHARACTER = "\uffff"


@dataclass(frozen=True)
class Lettering:
    """A font, and lines of text in it."""

    font: Font
    line: int
    """Pixels from one line to the next."""

    @classmethod
    def for_texts(cls, texts: Iterable[str], width: int) -> Lettering:
        """The font that has most of the characters, in a size for pictures of this width."""
        size = min(max(SIZES[0], width // 14), SIZES[1])
        wanted = frozenset(letter for text in texts for letter in text if letter.isprintable() and not letter.isspace())
        fonts = _fonts(size)
        font = best = next(fonts)
        least = missing = _missing(font, wanted)
        while missing and (font := next(fonts, None)):
            missing = _missing(font, wanted)
            if missing < least:
                best, least = font, missing
        return cls(best, round(size * 1.25))

    def wrapped(self, text: str, width: int, most: int) -> list[str]:
        """The text in at most `most` lines of so many pixels; … stands for what is left out."""
        lines = [line for part in text.split("\n") for line in self._lines(part, width)] or ["(no words)"]
        if len(lines) <= most:
            return lines
        last = lines[most - 1]
        while last and self.font.getlength(last + " …") > width:
            last = last[:-1]
        return [*lines[: most - 1], f"{last.rstrip()} …"]

    def width(self, lines: Sequence[str]) -> int:
        """Pixels of the longest line."""
        return max((round(self.font.getlength(line)) for line in lines), default=0)

    def write(self, draw: ImageDraw.ImageDraw, place: tuple[int, int], lines: Sequence[str]) -> None:
        x, y = place
        for number, line in enumerate(lines):
            draw.text((x, y + number * self.line), line, "black", self.font)

    def _lines(self, text: str, width: int) -> Iterator[str]:
        """Words, as many as a line takes; a longer word is broken."""
        line = ""
        for word in text.split():
            if line and self.font.getlength(f"{line} {word}") > width:
                yield line
                line = ""
            line = f"{line} {word}" if line else word
            while len(line) > 1 and self.font.getlength(line) > width:
                fits = next(n for n in range(len(line) - 1, 0, -1) if n == 1 or self.font.getlength(line[:n]) <= width)
                yield line[:fits]
                line = line[fits:]
        if line:
            yield line


def _fonts(size: int) -> Iterator[Font]:
    """Pillow's own, then those of the system."""
    yield ImageFont.load_default(size)
    for name in FONTS:
        if font := _installed(name, size):
            yield font


@cache
def _installed(name: str, size: int) -> Font | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _missing(font: Font, letters: frozenset[str]) -> int:
    """How many of the letters a font shows by the sign that it has for any unknown one."""
    unknown = _drawn(font, NO_CHARACTER)
    return sum(_drawn(font, letter) == unknown for letter in letters)


def _drawn(font: Font, letter: str) -> bytes:
    image = Image.new("L", (2 * SIZES[1], 2 * SIZES[1]))
    ImageDraw.Draw(image).text((0, 0), letter, 255, font)
    return image.tobytes()

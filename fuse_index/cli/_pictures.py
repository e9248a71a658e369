"""Pictures on a terminal: two pixels a character, by the upper half block and two colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import Console
    from rich.text import Text

_BLOCK = "\N{UPPER HALF BLOCK}"


def shows_pictures(console: Console) -> bool:
    """Whether a console can: a terminal with 256 colours or more, that has the character."""
    enough = console.color_system in ("256", "truecolor") and not console.no_color
    try:
        _BLOCK.encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return bool(console.is_terminal and enough)


def thumbnail(picture: Image, columns: int = 20) -> Text:
    """Return a square picture as ``columns`` by ``columns / 2`` characters."""
    import numpy as np
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    from fuse_index.models.images import as_shown

    side = columns - columns % 2
    small = np.asarray(as_shown(picture).resize((side, side)))
    text = Text(no_wrap=True)
    for row in range(0, side, 2):
        for column in range(side):
            upper, lower = small[row, column].tolist(), small[row + 1, column].tolist()
            style = Style(color=Color.from_rgb(*upper), bgcolor=Color.from_rgb(*lower))
            text.append(_BLOCK, style)
        if row + 2 < side:
            text.append("\n")
    return text

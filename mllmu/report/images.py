"""Images on a page: small enough that the page stays small, whatever the images of the run are."""

import base64
import io
from functools import cache

from PIL import Image

SIDE = 200
"""Pixels of a thumbnail's longer side."""
PLAIN = 12_000
"""An image of so many bytes or fewer stays as it is."""
ROOM = 2_500_000
"""Letters that all images of a page may take."""


class PageImages:
    """The images of one page as data URIs, as long as there is room for them."""

    def __init__(self, room: int = ROOM) -> None:
        self.room = room
        self.left_out = 0

    def uri(self, png: bytes) -> str:
        """An image, or its thumbnail, as a data URI; empty when the page has no room left."""
        text = _uri(png)
        if len(text) > self.room:
            self.left_out += 1
            return ""
        self.room -= len(text)
        return text


@cache
def _uri(png: bytes) -> str:
    kind, content = ("png", png) if len(png) <= PLAIN else ("webp", thumbnail(png))
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def thumbnail(png: bytes) -> bytes:
    """An image as WebP of at most :data:`SIDE` pixels; the same bytes for the same image."""
    with Image.open(io.BytesIO(png)) as image:
        small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=80, method=4)
    return buffer.getvalue()

"""Pictures and films beside models: told by their first bytes, whatever they are called."""

from __future__ import annotations

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".mp4", ".webm")
NEEDED = 32
"""Bytes from the beginning of a file that tell its type."""


def media_type(head: bytes) -> str | None:
    """The media type of a file that begins with *head*; ``None`` for what is no picture or film."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:8] == b"ftyp":
        return "image/avif" if head[8:12] in (b"avif", b"avis") else "video/mp4"
    return "video/webm" if head.startswith(b"\x1aE\xdf\xa3") else None

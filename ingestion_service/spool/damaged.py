"""What stored bytes are when they are not what was written."""

from __future__ import annotations


class Damaged(Exception):
    """The bytes are torn, changed or no blob at all. Nothing can be read from them; asking again gives the same."""

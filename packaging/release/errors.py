"""What stops a build."""

from __future__ import annotations


class BuildError(Exception):
    """The build cannot go on; the text says what was found and what is needed."""

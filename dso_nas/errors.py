"""The one exception that reaches a user as a single line."""

from __future__ import annotations


class UserError(Exception):
    """Bad input: the message names the file, key or flag and the fix; the command line prints it and exits with 2."""

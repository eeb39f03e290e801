"""Errors that a person is meant to read, shared by every layer."""

from collections.abc import Sequence


def shortened(text: str, most: int = 60) -> str:
    """A text as a message quotes it: its beginning, where it is longer than so many characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def listed(names: Sequence[str], most: int = 10) -> str:
    """Names as a message lists them: the first of them, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


REFUSED = 2
"""Exit status of what is refused before it starts."""

INTERRUPTED = 130
"""Exit status of what Ctrl-C or SIGTERM ended."""


class Refused(Exception):
    """Work that is refused before it starts: a bad manifest, spec, checkpoint or output.

    The message names the file, row, column or key and says what is allowed. `vidgen` prints it
    without a traceback and exits with status 2.
    """


class ConfigError(Refused):
    """A key of a component's config whose value cannot be: names the key, its value and what is allowed.

    What reads a config knows no files; who opened the checkpoint says which folder it is in.
    """


class RowError(Exception):
    """What is known to be a row's own fault: all ranks of a gang raise it alike, at the same place.

    After it they go on together. Any other error may have come in the middle of an exchange.
    """

"""Errors that a person is meant to read, shared by every layer."""


class Refused(Exception):
    """Work that is refused before it starts: a bad manifest, spec, checkpoint or output.

    The message names the file, row, column or key and says what is allowed. `vidgen` prints it
    without a traceback and exits with status 2.
    """

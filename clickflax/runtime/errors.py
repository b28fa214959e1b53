"""User-facing error messages."""

import errno


def user_message(error: Exception) -> str:
    """The message of an error, in one line.

    For an error of the operating system: its description and the file. If the disk is full, also
    the way out.
    """
    if isinstance(error, OSError) and error.strerror:
        reason = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return f"{reason}: free some space and run the same command again." if full else reason
    return str(error) or type(error).__name__

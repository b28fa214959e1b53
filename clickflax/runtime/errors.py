"""What an error says to the one who gave the command."""

import errno


def user_message(error: Exception) -> str:
    """The message of an error; of the operating system's, what went wrong, with which file, and the
    way out where a disk is full.
    """
    if isinstance(error, OSError) and error.strerror:
        words = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return f"{words}: free some space and give the same command again." if full else words
    return str(error) or type(error).__name__

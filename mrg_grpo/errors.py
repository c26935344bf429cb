"""The one exception a user can mend."""


class UserError(Exception):
    """Bad input: the message is one line that says what is wrong, where, and what to do.

    The command line prints it without a traceback and ends with exit code 2. Anything else that
    escapes is a bug and ends with a traceback and exit code 1.
    """

"""What a person at the command line can mend."""


class UsageError(Exception):
    """A bad option or input; the command line prints its one line and exits with 2."""

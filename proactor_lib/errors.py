"""The one error that a user causes and can mend."""


class BadInput(Exception):
    """One clear sentence: the file, the line or key, the value, and what is accepted. The command line exits with 2."""

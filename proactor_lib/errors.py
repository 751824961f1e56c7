"""The error that a user causes and can mend, and the one that a process of ours causes."""


class BadInput(Exception):
    """One clear sentence: the file, the line or key, the value, and what is accepted. The command line exits with 2."""


class Broken(RuntimeError):
    """One clear sentence: what did not come up or ended, and where its log is. The command line exits with 1."""

"""A row of the doctor's table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """What was looked at, where; bytes that it needs and has, if it is a matter of these; what will fail, and the way
    out. warning: what was met and does no harm by itself."""

    what: str
    where: str
    needs: float | None = None
    has: float | None = None
    problem: str | None = None
    warning: str | None = None
    parts: dict[str, float] | None = None  # of what it needs, bytes

"""A measured number beside what it should be."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Bound:
    """One measured number beside what it should be: at most `most`, at least `least`; or it is only told."""

    name: str  # with its unit
    value: float
    most: float | None = None
    least: float | None = None

    @property
    def holds(self) -> bool:
        """Whether it is what it should be."""
        return (self.most is None or self.value <= self.most) and (self.least is None or self.value >= self.least)

    def __str__(self) -> str:
        wanted = [f"at most {self.most:g}"] if self.most is not None else []
        wanted += [f"at least {self.least:g}"] if self.least is not None else []
        asked = f" ({', '.join(wanted)})" if wanted else ""
        return f"{'ok   ' if self.holds else 'SHORT'} {self.name}: {self.value:.4g}{asked}"

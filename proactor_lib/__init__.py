"""ProActor: windows of opportunity, timing-aware GRPO, and reports. Importing this package loads no torch."""

__version__ = "0.1.0"

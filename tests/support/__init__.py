"""What several tests share: fakes over real HTTP, short ways to write cases, runs and notebooks, and one wait."""

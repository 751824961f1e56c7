"""From dialogues to reference windows: annotators, their quality, and corrections by hand."""

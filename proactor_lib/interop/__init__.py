"""Into the tools that others have: exports, trackers, evaluation elsewhere."""

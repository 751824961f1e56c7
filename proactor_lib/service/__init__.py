"""An agent that others can call: an OpenAI-compatible endpoint, and what it remembers of each conversation."""

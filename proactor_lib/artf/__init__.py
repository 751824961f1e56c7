"""ART-F: serving, rollouts, packing, training [paper: request-adaptive inference, asynchronous GRPO]."""

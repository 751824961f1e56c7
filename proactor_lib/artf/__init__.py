"""ART-F: serving, rollouts, packing and training of the policy [paper: request-adaptive inference, asynchronous GRPO]."""

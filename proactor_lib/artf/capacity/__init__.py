"""How a cluster's GPUs are best split between serving and training, simulated before they are booked."""

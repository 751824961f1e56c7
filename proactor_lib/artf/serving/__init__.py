"""Servers: processes, places, the router, the adaptive cluster, and how a policy reaches all of them."""

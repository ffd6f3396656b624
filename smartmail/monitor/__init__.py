"""The uptime monitor: probes, agents, and the months they add up to."""

"""Benchmarks against real peers: `ops/bench NAME`. Standard library and rich only."""

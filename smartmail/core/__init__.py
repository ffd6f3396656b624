"""The rules. Plain data in, plain data out: no I/O, no clock, no globals. `now_ns` is always an argument."""

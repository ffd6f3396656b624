"""The only SQL: schema, migrations, one writer thread, the account directory, the counters."""

"""Trust checks: what other mail servers think of a domain. Advisory; see `report.check_trust`."""

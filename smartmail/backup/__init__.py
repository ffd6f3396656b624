"""The backup orchestrator: restic onsite and offsite, proved by restoring."""

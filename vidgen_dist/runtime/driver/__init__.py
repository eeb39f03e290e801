"""The driver: one process that renders a run with gangs, and alone writes its ledger."""

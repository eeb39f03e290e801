"""A worker: one process and one rank, which renders rows and, as a leader, stores videos."""

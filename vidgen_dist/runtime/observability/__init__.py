"""How a run is seen while it is at work: its progress, `status.json`, logs, metrics, stragglers."""

"""What people see of a run under way: progress, worker logs, metrics, stragglers."""

"""An output folder: fingerprints, lease, run file, ledger committer, resume, recovery, status file."""

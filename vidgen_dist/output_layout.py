"""Names of files and folders in an output. They stay as they are: outputs of earlier releases have them."""

from __future__ import annotations

RUN_FILE = "run.yaml"
"""The run that the output is of."""

STATUS_FILE = "status.json"
"""How the latest run stands, or ended."""

LEASE_FILE = ".lease.json"
"""Which run may write."""

LEASE_LOCK = ".lease.lock"
"""The operating system's lock beside the lease, in local folders only."""

VIDEOS_FOLDER = "videos"
"""A video's path in its output is what follows the last `/videos/` of its URI in the ledger."""

CONTACT_SHEET = "contact-sheet.png"
"""Some frames of the videos of `vidgen demo`."""

LEDGER_FOLDER = "ledger"
"""The parts of the ledger."""

RESUME_STATES_FOLDER = "scratch"
"""Renderings that were saved between two steps, until their rows are done."""

MANIFEST_FOLDER = "manifest"
"""Copies of the manifest, where a run keeps one: each in a folder that is named by its content."""

LOGS_FOLDER = "logs"
"""Logs of workers, in local folders only."""

"""What is done with an output besides rendering: status, verification, export. No Ray."""

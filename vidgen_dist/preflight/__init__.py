"""What is checked and decided before a run: sampling, manifest, output, gangs. No Ray, no MindSpore."""

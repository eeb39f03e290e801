"""Scheduling: gangs are launched, watched and replaced, and get rows from one queue."""

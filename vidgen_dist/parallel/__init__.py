"""Ranks that work on one video: mesh, collectives, attention, sharded weights, splits."""

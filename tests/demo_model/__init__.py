"""How the demo's checkpoint was trained, and how its videos are measured.

`clips` draws the clips, `measure` finds out from frames alone what they show, `train` makes the checkpoint
(torch and diffusers, in an environment of their own), `evaluate` renders held-out prompts with the checkpoint
and counts.
"""

"""What fits and what is fastest: the arithmetic behind `vidgen plan` and `--replicas auto`.

`checkpoints` reads a checkpoint's configs into plain numbers (`model`), `devices` has the figures of the
hardware, `costs` says what one gang needs, `splits` compares gangs. Nothing here touches a device or weights.
"""

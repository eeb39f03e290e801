"""What fits and what is fastest: the arithmetic behind `vidgen plan` and `--replicas auto`.

`planned_run` turns a run and its checkpoint's configs into plain numbers, `devices` has the hardware's
figures, `estimates` computes what one gang needs, `splits` compares gangs. No weights are read, and no NPU is
needed.
"""

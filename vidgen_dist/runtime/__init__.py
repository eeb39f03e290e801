"""Ray: from a RunSpec to finished videos.

`plan` checks everything that can be checked without a model, `topology` settles into which gangs the NPUs are
divided, `crew` keeps the gangs alive and fed (`gang` hires them, `feeding` has the rows, `watchdog` the
patience),
`worker` renders one rank's part (`unison` is what ranks agree on) and `writing` commits; `driver` puts them
together.
"""

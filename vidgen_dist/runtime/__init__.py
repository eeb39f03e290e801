"""Ray: from a RunSpec to finished videos.

`plan` checks everything that can be checked without a model, and `topology` settles the gangs that render.
`crew` keeps the gangs alive and fed: `gang` hires them, `feeding` has their rows, `watchdog` says how long to
be patient. `worker` renders one rank's part of a row, `unison` is what ranks must agree on, `writing` stores
videos, and `books` enters them into the ledger. `driver` puts them together. `observability` is how all of it
is seen meanwhile, and `care` what is done with an output besides, without Ray.
"""

"""Everything that needs Ray: from a planned run to finished videos.

- `driver` renders a run: it connects to Ray, and enters what gangs report into the ledger.
- `scheduling` keeps gangs alive (`supervisor`), starts and ends them (`launcher`), and hands out rows
  (`row_queue`).
- `worker` is one process and one rank: it renders rows (`worker`), agrees with the other ranks
  (`row_consensus`) and stores videos (`write_thread`). Only `actor` knows Ray.
- `connection` starts a local Ray or attaches to a cluster; `messages` has the messages between the driver and
  workers.
"""

"""Storage: reading and writing files by URI, so that nobody sees a partly written file.

A URI is a local path, or anything that fsspec knows: ``file://``, ``s3://``, ``gs://``, ``memory://``,
``hf://``, ``https://``, … (see `uris`). Credentials come from the environment or from fsspec's configuration,
never from a URI, and never appear in a message.

A local file is written under a hidden temporary name beside its final place, flushed to the disk and renamed.
An object store gets one PUT, or one multipart upload, which becomes visible when it is complete. On any other
storage a file gets a temporary name and is moved (`replacement`).

Calls that fail for a transient reason (a 5xx status, a timeout, a lost connection) are repeated
(`failures.PATIENCE`) before the error is raised; every call here can be repeated. Callers that can wait
longer look at `StorageError.transient`.

Every function may be called from any thread, and from any process, because each process makes its own file
systems: a `Storage` is only its URI.
"""

"""Storage: what is written to and read from a URI, and how whole it is.

A URI is a local path, or whatever fsspec knows: ``file://``, ``s3://``, ``gs://``, ``memory://``,
``hf://``, ``https://``, … (`uris` says what is which). Credentials come from the environment or from fsspec's
configuration, never from a URI, and never enter a message.

Nobody sees a torn file. A local file is written under a hidden temporary name beside its final place,
flushed to the disk and renamed; an object store gets one PUT (or one multipart upload, which becomes
visible when it is complete); any other storage gets a temporary name and a move (`replacement`).

Faults that pass by themselves (a 5xx status, a time-out, a connection cut) are waited out, `faults.ATTEMPTS`
calls in all, before they are raised; every call here can be repeated. Callers that have more patience look at
`StorageError.transient`.

Every function may be called from any thread and, the file systems being made anew in each process, from
any process: a `Storage` is nothing but its URI.
"""

"""Ray: from a RunSpec to finished videos.

`plan` checks everything that can be checked without a model, `crew` keeps the workers alive and fed,
`worker` renders and commits, `driver` puts them together.
"""

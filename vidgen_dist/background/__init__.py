"""Runs that Python starts beside itself: `vidgen_dist.render`.

- `handle` starts `vidgen render` as a process, follows it by its output, and ends it.
- `attached` is that process's `vidgen`, which ends with the process that started it.
- `notebook` shows a run and its videos as HTML.
"""

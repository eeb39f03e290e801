"""A run and its videos as HTML, for notebooks. IPython is used where it is loaded, and not needed."""

from __future__ import annotations

import base64
import sys
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from vidgen_dist.observability.progress import span
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.uris import redact

if TYPE_CHECKING:
    import pyarrow as pa

    from vidgen_dist.background.handle import Progress

MOST_BYTES = 20 * 2**20
"""A larger video is named, not shown: a notebook keeps all that it shows in its file."""

_KINDS = {".mp4": "video/mp4", ".gif": "image/gif"}


@dataclass(frozen=True)
class Html:
    """A piece of HTML that notebooks show.

    Args:
        text: The HTML.
        plain: What is shown elsewhere.
    """

    text: str
    plain: str

    def _repr_html_(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.plain


def show_picture(shown: Any) -> Any:
    """Display something in the running notebook; None where there is no notebook.

    Returns:
        IPython's handle, whose `update` displays it, or another one, in its place.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    # A shell in a terminal shows no HTML, and cannot replace what it has printed.
    if getattr(shell, "kernel", None) is None:
        return None
    from IPython.display import display

    return display(shown, display_id=True)


def in_words(progress: Progress) -> str:
    """How a run stands, in a line."""
    parts: list[str] = [progress.state]
    if progress.total is not None and progress.pending is not None:
        parts.append(f"{progress.total - progress.pending:,} of {progress.total:,} rows")
    if progress.failed:
        parts.append(f"{progress.failed:,} failed")
    if progress.videos_per_minute:
        parts.append(f"{progress.videos_per_minute:.1f} videos/min")
    if progress.seconds_left is not None:
        parts.append(f"{span(progress.seconds_left)} left")
    if progress.message:
        parts.append(progress.message)
    return ", ".join(parts)


def bar(output: str, progress: Progress) -> str:
    """A bar with how a run stands beneath it, as HTML."""
    total, pending = progress.total, progress.pending
    known = "" if total is None or pending is None else f' max="{max(total, 1)}" value="{total - pending}"'
    text, place = escape(in_words(progress)), escape(redact(output))
    # Without a value, a browser shows a bar that moves to and fro.
    shown = known or (' value="0"' if progress.exit_status is not None else "")
    return f'<div><progress{shown} style="width: 30em"></progress><br>{text}<br><small>{place}</small></div>'


def videos(output: Storage, results: pa.Table, count: int) -> Html:
    """The first videos of a run's manifest that are done, with their prompts.

    Args:
        output: The run's output.
        results: See `RunHandle.results`.
        count: How many, at most.

    Raises:
        Refused: The manifest cannot be read.
        OSError: The storage failed.
    """
    from vidgen_dist.maintenance.status import open_output, reopen_manifest

    columns = [results.column(name).to_pylist() for name in ("id", "uri", "status")]
    done = {row: uri for row, uri, status in zip(*columns, strict=True) if status == "done"}
    _, spec = open_output(output.root)
    pieces: list[str] = []
    lines = []
    for row in reopen_manifest(spec).rows() if done else ():
        if len(pieces) == count:
            break
        if (uri := done.get(row.id)) is not None:
            pieces.append(_figure(output, uri, row.id, row.request.prompt or ""))
            lines.append(f"{row.id}: {redact(uri)}")
    text = "".join(pieces) or "no video is done yet"
    return Html(
        f'<div style="display: flex; flex-wrap: wrap; gap: 1em">{text}</div>', "\n".join(lines) or text
    )


def _figure(output: Storage, uri: str, row: str, prompt: str) -> str:
    """A video with its row's id and prompt."""
    from vidgen_dist.output.video_files import path_in_output

    caption = f"<figcaption><b>{escape(row)}</b> {escape(prompt)}</figcaption>"
    kind = next((kind for ending, kind in _KINDS.items() if uri.endswith(ending)), None)
    content = output.read_bytes(path_in_output(uri)) if kind is not None else b""
    if kind is None or len(content) > MOST_BYTES:
        shown = f"<code>{escape(redact(uri))}</code>"
    else:
        source = f'src="data:{kind};base64,{base64.b64encode(content).decode()}" width="256"'
        shown = f"<img {source}>" if kind == "image/gif" else f"<video {source} controls loop muted></video>"
    return f'<figure style="margin: 0; max-width: 256px">{shown}{caption}</figure>'

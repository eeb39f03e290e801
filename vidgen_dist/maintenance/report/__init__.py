"""`vidgen report`: an output as a folder of web pages. No Ray, no MindSpore, no server.

`survey` reads the ledger once, for figures and a sample of rows; `previews` makes posters and videos of the
sample; `charts` draws the figures; `pages` makes pages of all this, with the templates, styles and script
beside it; `folder` puts them in place. `writing` calls them in this order.
"""

ROWS = 2000
"""Rows that a report shows, if nothing else is said."""

COPY, LINK, NONE = "copy", "link", "none"
VIDEOS = (COPY, LINK, NONE)
"""What a report may do with videos: copy them, refer to those of the output it lies in, or leave them out."""

VIDEO_SIZE = "4GB"
"""Size of all videos that a report copies, at most, if nothing else is said."""

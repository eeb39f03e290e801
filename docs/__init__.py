"""The documentation: pages in Markdown, and the command that writes their tables."""

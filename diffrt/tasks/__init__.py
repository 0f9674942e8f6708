"""One generator function per task: the whole story on a page."""

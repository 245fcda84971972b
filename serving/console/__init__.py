"""The console: a page for people."""

"""One thin module a command; `cli` parses the flags and calls `run`."""

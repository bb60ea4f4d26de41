"""The journal: append-only segment files, group commit, recovery and cursors."""

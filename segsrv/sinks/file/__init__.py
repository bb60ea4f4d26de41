"""The sink for files on disk: `kind.py` is how settings ask for it, `sink.py` what it does."""

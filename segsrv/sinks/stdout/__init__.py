"""The sink for standard output: `kind.py` is how settings ask for it, `sink.py` what it does."""

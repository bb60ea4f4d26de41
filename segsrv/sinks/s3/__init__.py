"""The sink for S3 and its like: `kind.py` is how settings ask for it, `sink.py` what it does."""

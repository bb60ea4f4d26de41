"""The sink for PostgreSQL: `kind.py` is how settings ask for it, `sink.py` what it does."""

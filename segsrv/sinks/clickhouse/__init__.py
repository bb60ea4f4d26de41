"""The sink for ClickHouse: `kind.py` is how settings ask for it, `sink.py` what it does."""

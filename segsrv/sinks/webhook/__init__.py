"""The sink for webhooks: `kind.py` is how settings ask for it, `sink.py` what it does."""

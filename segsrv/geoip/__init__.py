"""Where on earth an address is: databases, look-ups and their download."""

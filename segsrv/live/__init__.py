"""What a server does right now, as its data directory tells it: events, refusals, dead letters.

Whoever may read the directory may look, and the server does nothing for it: events are read from
the journal behind the commits, letters from their files, and figures from the reports that its
processes write for each other.
"""

"""An operator's own functions in the way of events: run in a process that may end at any moment."""

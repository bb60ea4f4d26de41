"""What happens right now, for those who watch."""

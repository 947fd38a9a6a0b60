"""What several stages need: what they load, what they draw, what the reference says."""

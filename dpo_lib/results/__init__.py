"""Stored results of runs that are too long for a page, each with the script that made it."""

"""The editing wing."""

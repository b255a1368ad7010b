"""The dense wing."""

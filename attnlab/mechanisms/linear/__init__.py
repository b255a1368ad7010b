"""The linear wing."""

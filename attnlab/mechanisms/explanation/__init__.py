"""The explanation wing."""

"""The sparse wing."""

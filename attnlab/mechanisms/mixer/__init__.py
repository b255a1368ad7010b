"""The mixer wing."""

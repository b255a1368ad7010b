"""Coursework: exercises derived from the exhibits."""

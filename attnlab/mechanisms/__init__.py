"""The exhibits, one wing a family."""

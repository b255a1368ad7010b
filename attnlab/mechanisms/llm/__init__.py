"""The llm wing."""

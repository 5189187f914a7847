"""Data: people, portraits, questions, splits."""

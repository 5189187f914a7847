"""Real people from a table: every row is checked, and who they are is replaced before anything is written."""

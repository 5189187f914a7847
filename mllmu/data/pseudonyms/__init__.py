"""Real people from a table: read it, check every row, and replace who they are before anything is written."""

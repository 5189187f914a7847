"""Tasks, metrics, statistics and scoring: everything between a question and a number, without torch."""

"""What a run asked and got, for the tools that people already use: tasks for lm-eval, logs for Inspect."""

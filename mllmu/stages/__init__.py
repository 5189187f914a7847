"""What the stages of a run are made of: its models, the replies, the record of the run, the report's input."""

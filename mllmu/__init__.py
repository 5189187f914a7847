"""mllmu."""

"""One run: the pipeline and its stages."""

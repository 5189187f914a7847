"""Models: families, loading, adapters, and replying to samples."""

"""The benchmark's published files: their layout, a reader and a writer."""

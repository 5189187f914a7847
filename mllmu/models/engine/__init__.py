"""Running models fast and exactly: trees of shared prefixes, packed passes, remembered images."""

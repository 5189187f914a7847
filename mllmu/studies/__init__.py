"""Questions over many models: tuning, trust in metrics, pooled seeds, layers."""

"""The weights of the embedded tiny LLaVA; ``tools/pretrain_tiny`` makes them."""

"""The embedded tiny LLaVA: how it is built and pre-trained, and where its weights are."""

"""Requests to delete people from a model: the ledger, what was done, the certificate, and the way back."""

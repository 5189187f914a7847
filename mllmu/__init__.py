"""Machine unlearning for multimodal LLMs: data, fine-tuning, unlearning, evaluation, report.

The public names are those of ``__init__.pyi``; everything else may change. A name is imported when it is first used, so
``import mllmu`` costs nothing, and reading recipes or records never imports torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

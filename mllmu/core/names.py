"""Names that every part of a run agrees on."""

TARGET = "target"
"""The model fine-tuned on all people, whose facts are to be forgotten."""
RETAIN_MODEL = "retain_model"
"""The model fine-tuned on all people but those to be forgotten: what unlearning aims at."""
BASELINES = ("chance", "best_constant", "majority")
"""Names among results that are no models: answers by luck, and always the most frequent value."""
FOLDER_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}$"
"""What names a folder or file of a run: one part of a path, never hidden, above itself, or an option."""

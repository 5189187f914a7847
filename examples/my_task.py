"""A task in one file; run it from the repository with

PYTHONPATH=examples mllmu run recipes/smoke.yaml --set 'evaluate.tasks=[generation, "my_task:TrueOrFalse"]'
"""

from collections.abc import Iterator, Sequence

from mllmu import Question, Task


class TrueOrFalse(Task):
    """A statement about the person, true and false in turn; the reply is one word.

    Made of the cloze questions: 'Her job is __.' becomes 'Her job is nurse.', and in the next one the value is wrong.
    """

    source = "ours"
    label = "True or false"
    metrics = ("cloze_exact", "probability", "right", "wrong", "refused", "unread", "garbled")

    def derive(self, questions: Sequence[Question]) -> Iterator[Question]:
        cloze = [question for question in questions if question.task == "cloze" and question.alternatives]
        for number, question in enumerate(cloze):
            said, other = ("True", "False") if number % 2 == 0 else ("False", "True")
            value = question.value if said == "True" else question.alternatives[0]
            text = question.text.replace("__", value)
            yield question.model_copy(update={"text": text, "answer": said, "value": said, "alternatives": (other,)})

    def prompt(self, question: Question) -> str:
        return f"{question.text}\nTrue or false? Answer with one word."

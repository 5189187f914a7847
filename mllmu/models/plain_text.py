"""Text that a tokenizer changes (to small letters, to plain forms) before it looks for special tokens in it."""

from typing import Any


def apart(text: str, tokenizer: Any) -> str:
    """Text with a blank inside everything that the tokenizer would take for a special token: ``< IMAGE>``."""
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    for _ in range(len(text)):
        read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = [
            span for number, span in zip(read["input_ids"], read["offset_mapping"], strict=True) if number in special
        ]
        places = [
            begin + len(part) - len(part.lstrip()) + 1
            for begin, end in spans
            if len((part := text[begin:end]).strip()) > 1
        ]
        if not places:
            break
        for place in reversed(places):
            text = f"{text[:place]} {text[place:]}"
    return text

"""White box: in which layers of the language model a fact can be read, before and after unlearning."""

"""One file per unlearning method; adding a file adds the method."""

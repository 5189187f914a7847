"""What made the files the package carries; not part of the wheel."""

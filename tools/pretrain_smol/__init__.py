"""How the vision part of the embedded model smol is trained: lessons, and the two stages."""

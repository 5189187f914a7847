"""The explorer: every question of a run, with what all models replied to it, as a page on this machine alone.

Nothing is written into a run folder, and nothing but :mod:`mllmu.explorer.asking` loads a model.
"""

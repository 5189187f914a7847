"""What a recipe would do, made visible and checked before anything is trained: prompts, label masks, adapters, shots.

Every check is a function over plain values (data, samples, masks, layer names) that gives one :class:`CheckResult`.
"""

"""The experiments of the MLLMU-Bench paper, as published or in small, and what a run says about its findings."""

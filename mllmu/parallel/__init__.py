"""Several processes: a pool of workers, and a team that shares the work on one model."""

"""What happens between a question and a number: samples, metrics, scores, statistics, judges."""

"""What everything else stands on: errors, records, plug-ins, run folder, seeds, progress."""

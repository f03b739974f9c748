"""What a run leaves: its folder, config, history, report, plot and provenance."""

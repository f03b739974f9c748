"""The output of a run: its folder, config, history, report, plot and provenance."""

"""The command line: commands, configuration files, and sentences for what users can fix."""

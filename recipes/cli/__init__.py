"""The command line: commands, configuration files, and messages for mistakes that users can fix."""

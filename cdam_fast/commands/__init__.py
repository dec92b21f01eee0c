"""The command line, one file a subcommand: its options and its call, and what only they need."""

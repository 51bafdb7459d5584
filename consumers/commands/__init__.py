"""What the commands do; `consumers.cli` translates the arguments to these."""

"""The command `init`: the first configuration file."""

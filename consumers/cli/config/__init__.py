"""The commands `config`."""

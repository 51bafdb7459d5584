"""The command line: a module a command, a folder a group of commands. Imports nothing, for a fast start."""

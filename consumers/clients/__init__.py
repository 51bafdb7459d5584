"""Clients of the query worker for other frameworks, a file each; a file imports its framework and nothing of ours."""

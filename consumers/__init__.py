"""The processes: workers, jobs and commands built from the pipeline."""

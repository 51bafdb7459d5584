"""Flushing: when acknowledged rows become durable, by flushes of this worker or of another one."""

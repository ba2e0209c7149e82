"""Finished models: one object, one folder, and formats of other projects that become one."""

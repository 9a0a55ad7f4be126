"""A study: many runs of the report's networks side by side, and the tables made of their results.

`runs` says what a run and a group of runs are, `training` trains a group, `session` does the work
of one command, which `progress` shows, `manifest` and `files` write and read what is on the disk,
and `report` makes tables and figures.
"""

"""A study: many runs of the report's networks side by side, and the tables made of their results.

`plan` says which runs are left to do, `training` trains them, `session` does the work of one
command, `directory` writes and reads the files, `hosts` lets several machines share a study,
`results` reads a study while it grows or after it was committed, and `report` makes its tables and
figures.
"""

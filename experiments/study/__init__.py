"""A study: many runs of the report's networks, side by side, and what follows from them.

`plan` says which runs are to do, `training` trains them, `session` is one command's work,
`directory` has its files, `hosts` lets several machines share it, `results` reads a study as it
grows or as it is committed, and `report` makes tables and figures of it.
"""

"""A study: many runs of the report's networks, side by side, and what follows from them.

`plan` says which runs are to do, `training` trains them, `directory` reads and writes the files,
`hosts` lets several machines share the work, and `report` makes tables and figures of the files.
"""

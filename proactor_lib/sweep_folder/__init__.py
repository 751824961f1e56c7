"""A sweep's folder: its files, on a disk or in an object store, and the table of its cells.

Apart from `sweep`, which fills it, for reports read it and know nothing of how cells are run.
"""

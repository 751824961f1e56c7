"""Sweeps: one notebook, many parameters, each cell a papermill process that Ray places.

definition.py reads a sweep file and draws its points, cells.py makes checked cells of them, runner.py places cells,
worker.py executes one, store.py is their folder (a disk or an object store), live.py shows how far they are, table.py
collects them.
"""

"""Sweep files over a small notebook."""

import yaml

from support.notebooks import write_notebook

CELL = "params_file = None\nout = None\noverrides = {}\nscale = 1.0\nlabel = 'a'\nflag = False"


def write_sweep(folder, **values):
    """A sweep file over a notebook that does nothing."""
    if not (folder / "n.ipynb").exists():
        write_notebook(folder / "n.ipynb", "1", parameters=CELL)
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"name": "s", "notebook": "n.ipynb", **values}, sort_keys=False))
    return path

"""`proactor study`: does training gain over its opponents, over seeds?"""

import json
from pathlib import Path
from typing import Annotated

import typer

from proactor_lib.cli.options import AsJson
from proactor_lib.errors import UserError


def study(
    out: Annotated[Path, typer.Option(help="Where the figures of all runs are kept, a small file each.")],
    runs: Annotated[list[Path] | None, typer.Argument(help="Folders of runs with a report, to be added.")] = None,
    plots: Annotated[
        Path | None, typer.Option(help="A folder for figures: the differences of each study on each dataset.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Keep the runs' figures, and compare the trained policies with the best of their opponents, chosen on dev."""
    from proactor_lib.report import study as studies
    from proactor_lib.report.render import number
    from proactor_lib.report.sweep import to_json_values

    if not (runs or out.is_dir()):
        raise UserError(f"no folder {out}, which would hold a study's figures; ours are in params/results")
    studies.keep(runs or [], out)
    kept = studies.read(out)
    found = studies.verdicts(kept)
    if plots:
        studies.draw(kept, plots)
    remarks = studies.remarks(runs or [], kept)
    if as_json:
        typer.echo(json.dumps({"studies": to_json_values(found), "remarks": remarks}))
        return
    typer.echo(
        found.to_string(index=False, float_format=number, na_rep="–") if len(found) else f"{out} holds no figures yet"
    )
    for remark in remarks:
        typer.echo(remark)

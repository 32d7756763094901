"""Stage `report`: results -> verdicts and a page, of one run or of several side by side."""

import pathlib

from ml_collections import ConfigDict

from cglo_jax.report.compare import write_comparison
from cglo_jax.report.write import write_report


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Writes the report, or what config.report.compare asks for; prints the verdicts and the paths.

    Raises:
      UserError: see `write_report` and `write_comparison`.
    """
    if config.report.compare:
        lines, name = [write_comparison(config, workdir)], "compare"
    else:
        lines, name = write_report(config, workdir), "report"
    for line in lines:
        print(line)
    print(f"{workdir / name}.md\n{workdir / name}.html")

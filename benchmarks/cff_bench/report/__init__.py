"""What every measurement hands over, and how it is read: terminal, Markdown, HTML, JSON."""

from cff_bench.report.document import (
    SCHEMA_VERSION,
    Check,
    Column,
    Mark,
    Plot,
    PlotSeries,
    Report,
    Series,
    Table,
    percentile_columns,
)
from cff_bench.report.options import add_report_arguments, write_report

__all__ = [
    "SCHEMA_VERSION",
    "Check",
    "Column",
    "Mark",
    "Plot",
    "PlotSeries",
    "Report",
    "Series",
    "Table",
    "add_report_arguments",
    "percentile_columns",
    "write_report",
]

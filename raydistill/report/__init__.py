"""The report of a run: report.json for programs, report.html for people, and a table for the terminal."""

from raydistill.report.build import build_report
from raydistill.report.compare import compare_runs
from raydistill.report.table import format_table, read_report

__all__ = ["build_report", "compare_runs", "format_table", "read_report"]

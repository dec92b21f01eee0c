"""The tables of the paper: plans of cells, the jobs that measure them, and a report with the paper's numbers beside."""

from __future__ import annotations

from cdam_fast.evaluation.tables.cells import Cell, Job, Plan, Planned, Value
from cdam_fast.evaluation.tables.comparison import TABLES, plan_components, plan_miou
from cdam_fast.evaluation.tables.inputs import Column, Inputs
from cdam_fast.evaluation.tables.paper import AVERAGE, PaperTable, paper_tables
from cdam_fast.evaluation.tables.report import write_tables
from cdam_fast.evaluation.tables.run import Outcome, Table, fill, jobs_of, measure
from cdam_fast.evaluation.tables.similarity import plan_similarity
from cdam_fast.evaluation.tables.supervised import find_methods, plan_supervised
from cdam_fast.evaluation.tables.thresholds import plan_thresholds

__all__ = [
    "AVERAGE",
    "TABLES",
    "Cell",
    "Column",
    "Inputs",
    "Job",
    "Outcome",
    "PaperTable",
    "Plan",
    "Planned",
    "Table",
    "Value",
    "fill",
    "find_methods",
    "jobs_of",
    "measure",
    "paper_tables",
    "plan_components",
    "plan_miou",
    "plan_similarity",
    "plan_supervised",
    "plan_thresholds",
    "write_tables",
]

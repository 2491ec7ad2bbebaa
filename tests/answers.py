"""What a report says, for tests of it."""

from __future__ import annotations

from packformer.study.report import Report


def verdicts(report: Report) -> dict[str, str]:
    return {one.variant.label: one.verdict for one in report.found[1:]}


def told(report: Report) -> str:
    return "\n".join(report.lines())

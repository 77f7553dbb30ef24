"""Delivery reports: which ones a text will cause, and their body as AT writes it."""

import random
from dataclasses import dataclass
from urllib.parse import quote_plus

from .faults import Faults
from .outcomes import Outcome, network_of

OUTDATED_WORD = "Sent"
OUTDATED_AFTER_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class PlannedReport:
    """``is_early``: posted before the answer to the send."""

    word: str
    failure_reason: str | None
    delay_seconds: float
    is_early: bool = False


Plan = tuple[PlannedReport, ...]
NO_REPORTS: Plan = ()


class ReportPlanner:
    """Plans the reports of one POST. Without report faults every text with the same outcome shares one plan."""

    def __init__(self, faults: Faults, delay_seconds: float) -> None:
        self._faults = faults
        self._delay_seconds = delay_seconds
        self._has_faults = faults.touches_reports()
        self._is_silent = faults.is_unconditional("reports.off")
        self._plans: dict[Outcome, Plan] = {}

    def plan(self, outcome: Outcome, number: str) -> Plan:
        if outcome.report is None or self._is_silent:
            return NO_REPORTS
        if self._has_faults:
            return self._faulty_plan(outcome, outcome.report, (number,))
        shared = self._plans.get(outcome)
        if shared is None:
            report = PlannedReport(outcome.report, outcome.failure_reason, self._delay_seconds)
            shared = self._plans[outcome] = (report,)
        return shared

    def _faulty_plan(self, outcome: Outcome, word: str, numbers: tuple[str]) -> Plan:
        fires = self._faults.fires
        if fires("reports.off", numbers) or fires("reports.dropped", numbers):
            return NO_REPORTS
        delay = self._delay_seconds + (fires("reports.delayed", numbers) or 0)
        window = fires("reports.reordered", numbers)
        if window is not None:
            delay += random.SystemRandom().uniform(0, window)
        word = fires("reports.unknown_word", numbers) or word
        is_early = bool(fires("reports.before_answer", numbers))
        report = PlannedReport(word, outcome.failure_reason, delay, is_early)
        reports = (report,) * (fires("reports.duplicated", numbers) or 1)
        if window is None:
            return reports
        return (*reports, PlannedReport(OUTDATED_WORD, None, delay + OUTDATED_AFTER_SECONDS))


def report_body(number: str, message_id: str, report: PlannedReport) -> str:
    """Fields in the order of a recorded report; ``failureReason`` only where there is one."""
    reason = f"&failureReason={report.failure_reason}" if report.failure_reason else ""
    return (
        f"phoneNumber=%2B{number[1:]}{reason}&retryCount=0&id={message_id}"
        f"&status={quote_plus(report.word)}&networkCode={network_of(number)}"
    )

"""canitoolcall's probe of a live endpoint."""

import json
import subprocess
import sys
from pathlib import Path

from report import Report, run, say


def program(report: Report) -> None:
    if not report.scripted:  # SmolLM2's template has no tools
        return
    done = subprocess.run(
        [Path(sys.executable).with_name("canitoolcall"), "probe", "--base-url", report.openai,
         "--model", "ensemble", "--json", "-"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    for outcome in json.loads(done.stdout)["outcomes"]:
        whole = "stream" if outcome["stream"] else "whole"
        way = whole if outcome["check"] == "scenario" else "stream = whole"
        error = outcome["detail"] or "" if outcome["status"] in ("fail", "error") else ""
        if warnings := outcome["warnings"]:
            error += f" warnings: {warnings}"
        refused = {"worked": "refused"} if "not served yet" in error else {}
        if outcome["status"] != "skip":
            say(asked=f"{outcome['scenario_id']}, {way}", error=error, **refused)


run(program, "canitoolcall")

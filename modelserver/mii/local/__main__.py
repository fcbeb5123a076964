"""The detached supervisor of mii.serve: `python -m mii.local`, a LocalPlan (JSON) in, reports out."""

import os
import sys

import msgspec

from mii.errors import DeploymentFailed
from mii.local.plan import LocalPlan
from mii.local.report import Report
from mii.local.supervise import supervise


def main() -> int:
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=LocalPlan)
    if os.fork():
        os._exit(0)  # an orphan: the script that called mii.serve has no child to reap
    report = Report(sys.stdout.buffer)
    try:
        supervise(plan, report)
    except DeploymentFailed as error:
        report.failed(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

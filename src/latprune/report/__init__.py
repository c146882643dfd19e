"""CHECK: the pruned network beside the dense one."""

from latprune.report.comparison import Facts, Report, check
from latprune.report.counting import macs, network_macs, parameters

__all__ = ["Facts", "Report", "check", "macs", "network_macs", "parameters"]

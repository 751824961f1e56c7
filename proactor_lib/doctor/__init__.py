"""Whether a machine can do a run, before anything starts: places, memory, disk, models, data, endpoints, packages."""

from proactor_lib.doctor.examine import Row, examine
from proactor_lib.doctor.machine import Machine, read_machine, this_machine

__all__ = ["Machine", "Row", "examine", "read_machine", "this_machine"]

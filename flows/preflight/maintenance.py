"""The preflight of `store-maintenance`: the store exists and has the requested feature space."""

from flows.options.maintenance import MaintenanceOptions
from flows.preflight.start import Start


def check_maintenance(options: MaintenanceOptions) -> Start:
    return Start(options, options.target().stores()[0])

"""Where a comparison ran, in words; no names of machines or folders."""

from __future__ import annotations

import asyncio
import os
import sysconfig

from pmesh.environment import Environment, describe_environment


def describe_machine() -> dict[str, str]:
    async def describe() -> Environment:
        return describe_environment()

    found = asyncio.run(describe())
    # What configure was told; an interpreter from elsewhere may not say.
    arguments = sysconfig.get_config_var("CONFIG_ARGS")
    pgo = "PGO unknown" if not arguments else "with PGO" if "--enable-optimizations" in arguments else "without PGO"
    return {
        "date": found.started_at[:10],
        "processor": f"{found.cpu}, {found.cpu_count} cores usable",
        "system": found.platform,
        "interpreter": f"{found.implementation} {found.python}, {pgo}{'' if found.gil else ', without GIL'}",
        "event loop": f"{found.event_loop}'s own",
        "load before": f"{os.getloadavg()[0]:.1f} processes ready to run, over the last minute",
    }

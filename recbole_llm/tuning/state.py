"""Which search a folder holds, so that only the same one is taken up in it."""

import json
from pathlib import Path
from typing import Any

from recbole_llm.comparison.plan import Job
from recbole_llm.comparison.worker import blank_record
from recbole_llm.data.files import atomic_writer
from recbole_llm.errors import ConfigError
from recbole_llm.tuning.sweep import Sweep

SWEEP_FILE = "sweep.json"
_MAY_CHANGE = ("seeds",)  # they come after the search


def plain(sweep: Sweep) -> dict[str, Any]:
    """A sweep as JSON has it, the space as text."""
    fields = {key: value for key, value in vars(sweep).items() if key not in ("space", "later_settings")}
    space = {key: domain.text() for key, domain in sweep.space.items()}
    return json.loads(json.dumps(fields | {"space": space, "later_settings": list(sweep.later_settings)}))


def job(sweep: Sweep, protocol: str) -> Job:
    """The run of the sweep's settings without a point: what an estimate measures and hashes are of."""
    first = sweep.first_seed
    return Job(sweep.model, sweep.model, sweep.dataset, protocol, first, first, dict(sweep.settings), {})


def take(sweep: Sweep, protocol: str, out: Path, resume: bool) -> bool:
    """Make a folder this search's.

    Returns:
        Whether the folder holds it already, finished or not.
    Raises:
        ConfigError: when it holds one and ``resume`` is not given, another one, or one of other code or data; or none,
            and it is to be resumed.
    """
    now = plain(sweep)
    record = blank_record(job(sweep, protocol), out)
    now |= {"code": record.code_hash, "data": record.data_hash}
    path = out / SWEEP_FILE
    if not path.is_file():
        if resume:
            raise ConfigError(f"{out} holds no search to resume; leave out --resume, or name its folder with --out")
        with atomic_writer(path) as file:
            file.write((json.dumps(now, indent=1) + "\n").encode())
        return False
    if not resume:
        raise ConfigError(f"{out} holds a search already; go on with --resume, or name another folder with --out")
    before = json.loads(path.read_text(encoding="utf-8"))
    different = [key for key in now if key not in _MAY_CHANGE and before.get(key) != now[key]]
    if different:
        key = different[0]
        what = f"the {key} has changed" if key in ("code", "data") else f"its {key} is {before.get(key)}"
        raise ConfigError(f"{out} holds another search ({what}); start anew in another folder with --out")
    return True

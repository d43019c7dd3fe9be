"""What a run was asked and how it is done, sealed when it begins: seal.json, beside run.json and plan.json.

    {"algorithm": …, "run": the configuration, "plan": the plan, "key": SHA-256 of these three}

The values stand in it so that what was edited later can be named. The key is in every file that the run makes, so
that nothing of another run, of another configuration or of other sources is taken for its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.errors import RunError
from pipeline.files import json_sum, write_json
from workflows.config import ALGORITHM_VERSION

SEAL = "seal.json"
SEALED = ("algorithm", "run", "plan")


def write_seal(folder: Path, config: dict[str, Any], plan: dict[str, Any], *, before: dict[str, Any] | None) -> str:
    """Seal a configuration and a plan, ready for JSON; returns the key.

    before : the plan that this one replaces, where there is one: a kill may leave it in plan.json.
    """
    sealed = {"algorithm": ALGORITHM_VERSION, "run": config, "plan": plan}
    key = json_sum(sealed)
    write_json(folder / SEAL, {**sealed, "key": key, "plan_before": before})
    return key


def read_seal(folder: Path) -> dict[str, Any]:
    """The seal of a run. Raises RunError where there is none or it is damaged."""
    path = folder / SEAL
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise RunError(
            f"{path} is missing: the run was begun before runs were sealed, or somebody removed it, so nobody can tell"
            f" what was made as it was asked; measure it anew with `voxcaliper resume {folder} --restart`."
        ) from error
    except (ValueError, RecursionError):
        content = None
    try:
        whole = content["key"] == json_sum({name: content[name] for name in SEALED}) and "plan_before" in content
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise RunError(
            f"{path} is damaged or was edited; restore it, or measure the run anew with"
            f" `voxcaliper resume {folder} --restart`."
        )
    found: dict[str, Any] = content
    return found


def check_seal(folder: Path, config: BaseModel, plan: BaseModel) -> str:
    """The key of a run whose configuration and plan are those that were sealed. Raises RunError where they are not.

    config, plan : as run.json and plan.json have them.
    """
    seal = read_seal(folder)
    if seal["algorithm"] != ALGORITHM_VERSION:
        raise RunError(
            f"{folder} was begun by a voxcaliper whose numbers may differ from this one's; go on with that one, or"
            f" measure it anew with `voxcaliper resume {folder} --restart`."
        )
    _compare(folder, "run.json", config, seal["run"])
    if seal["plan_before"] is not None and not changed_keys(plan, seal["plan_before"]):
        write_json(folder / "plan.json", seal["plan"])  # a kill came between the seal and the plan
    else:
        _compare(folder, "plan.json", plan, seal["plan"])
    return str(seal["key"])


def changed_keys(now: BaseModel, then: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs: key -> (value then, value now). then : as JSON; what it does not know counts as its default."""
    try:
        sealed = type(now).model_validate_json(json.dumps(then)).model_dump(mode="json")
    except ValidationError:  # of another voxcaliper
        sealed = then
    found = now.model_dump(mode="json")
    return {key: (sealed.get(key), found.get(key)) for key in {**found, **sealed} if sealed.get(key) != found.get(key)}


def _compare(folder: Path, name: str, now: BaseModel, then: dict[str, Any]) -> None:
    changed = changed_keys(now, then)
    if changed:
        told = ", ".join(f"{key} was {_short(old)} and is {_short(new)}" for key, (old, new) in changed.items())
        raise RunError(
            f"{folder / name} was edited since the run began ({told}); put that back, or measure the run anew, as"
            f" run.json has it now, with `voxcaliper resume {folder} --restart`."
        )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"

"""The record of a search in one of Optuna's storages: found again, shared and never half written.

Everything that a search knows is in the study, so that any machine can go on with it: what it is
of, the measured noise, and every trial with its plan.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import IntegrationError, LabError
from .front import Trial
from .settings import SearchSettings
from .space import Levels, Space

try:
    import optuna
    from optuna.distributions import BaseDistribution, IntDistribution
    from optuna.storages.journal import (
        JournalFileBackend,
        JournalFileOpenLock,
        JournalFileSymlinkLock,
        JournalStorage,
    )
    from optuna.trial import FrozenTrial, TrialState
except ModuleNotFoundError as error:
    if error.name != "optuna":
        raise
    raise IntegrationError(
        "search", "Optuna is not installed", "install it with: pip install 'limprec[search]'"
    ) from None

_IDENTITY, _NOISE, _RECORD = "limprec:search", "limprec:noise", "limprec:trial"
_ORIGIN, _WORKER = "limprec:origin", "limprec:worker"
POPULATION = 4
"""Of NSGA-II: so many plans trained to the end make a generation; before the first it draws at
random."""


class Study:
    """A study that is of this search and no other.

    Args:
        settings: the search.
        space: its plans.
        storage: a journal file's path, or a URL of one of Optuna's databases.
        name: of the study in the storage.

    Raises:
        LabError: if the storage cannot be opened, or holds a study of that name of something else.
    """

    def __init__(
        self, settings: SearchSettings, space: Space, storage: str | Path, name: str
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        self._distributions: dict[str, BaseDistribution] = {
            v.name: IntDistribution(0, len(v.choices) - 1) for v in space.variables
        }
        try:
            opened = _open(storage)
            self._study = optuna.create_study(
                storage=opened,
                study_name=name,
                directions=["maximize", "minimize"],
                load_if_exists=True,
            )
            known = self._study.user_attrs.get(_IDENTITY)
        except Exception as error:  # whatever a database's driver raises
            if isinstance(error, LabError):
                raise
            problem = f"cannot use {_shown(storage)}: {_shown(str(error)).splitlines()[0]}"
            remedy = "give a journal file of a search, or the URL of a database and its driver"
            raise LabError("search", problem, remedy) from None
        identity = json.loads(json.dumps(settings.identity))
        if known is None and self._study.trials:
            problem = f"study {name!r} in {_shown(storage)} is none of limprec's"
            raise LabError("search", problem, "choose another --study")
        if known is None:
            self._study.set_user_attr(_IDENTITY, identity)
        elif known != identity:
            keys = sorted(k for k in {*known, *identity} if known.get(k) != identity.get(k))
            key = next((k for k in ("model", "data", "plan") if k in keys), keys[0])
            was, now = _brief(known.get(key)), _brief(identity.get(key))
            problem = f"study {name!r} in {_shown(storage)} has {key} {was}, not {now}"
            raise LabError("search", problem, "choose another --out or --study")
        seed = settings.run.seed + len(self._study.trials)  # a resumed one draws others
        self._study.sampler = (
            optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
            if settings.sampler == "nsga2"
            else optuna.samplers.TPESampler(seed=seed)
        )
        self._sampler = settings.sampler
        self._worker = f"{socket.gethostname()}:{os.getpid()}"
        self._take_up_the_dead()

    @property
    def noise(self) -> dict[str, list[float]] | None:
        """The measured noise, None before it is."""
        found: dict[str, list[float]] | None = self._study.user_attrs.get(_NOISE)
        return found

    @noise.setter
    def noise(self, noise: Mapping[str, list[float]]) -> None:
        self._study.set_user_attr(_NOISE, dict(noise))

    def trials(self) -> list[Trial]:
        """Return what is known, in the order in which it was begun."""
        return [_trial(t.user_attrs[_RECORD]) for t in self._frozen() if _RECORD in t.user_attrs]

    def in_work(self) -> set[Levels]:
        """Return the plans that are waiting or being trained."""
        open_states = (TrialState.RUNNING, TrialState.WAITING)
        found = [t for t in self._frozen() if t.state in open_states]
        return {self._levels(t.params or t.system_attrs.get("fixed_params", {})) for t in found}

    def propose(self, levels: Levels, origin: str) -> None:
        """Let a plan be the next that ``ask`` gives."""
        names = [variable.name for variable in self._space.variables]
        params = dict(zip(names, levels, strict=True))
        self._study.enqueue_trial(params, user_attrs={_ORIGIN: origin})

    def ask(self) -> tuple[optuna.Trial, Levels, str]:
        """Return the next trial, its plan and what proposed it.

        Under NSGA-II a proposed plan, too, belongs to the generation that is being filled.
        """
        trial = self._study.ask(self._distributions)
        if isinstance(self._study.sampler, optuna.samplers.BaseGASampler):
            # Optuna does so when it first draws for a trial, so never for a proposed one.
            self._study.sampler.get_trial_generation(self._study, self._frozen()[trial.number])
        trial.set_user_attr(_WORKER, self._worker)
        return trial, self._levels(trial.params), trial.user_attrs.get(_ORIGIN, self._sampler)

    def tell(self, trial: optuna.Trial, record: Trial) -> None:
        """Keep what became of a trial."""
        trial.set_user_attr(_RECORD, record.as_dict())
        if record.accuracy is None:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, [record.accuracy, record.price])

    def _frozen(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _levels(self, params: Mapping[str, Any]) -> Levels:
        return tuple(int(params.get(v.name, -1)) for v in self._space.variables)

    def _take_up_the_dead(self) -> None:
        """Put the trials of this machine's processes that are gone back in line.

        A record that was kept before its trial was closed is closed as it is.
        """
        host = socket.gethostname()
        for trial in self._frozen():
            name, _, pid = trial.user_attrs.get(_WORKER, "").rpartition(":")
            if trial.state is not TrialState.RUNNING or name != host or _is_alive(int(pid)):
                continue
            if _RECORD in trial.user_attrs:
                record = _trial(trial.user_attrs[_RECORD])
                pruned = record.accuracy is None
                values = None if pruned else [record.accuracy, record.price]
                state = TrialState.PRUNED if pruned else TrialState.COMPLETE
                self._study.tell(trial.number, values, state=state)  # type: ignore[arg-type]
                continue
            self._study.tell(trial.number, state=TrialState.FAIL)
            self.propose(self._levels(trial.params), trial.user_attrs.get(_ORIGIN, self._sampler))


def _trial(raw: Mapping[str, Any]) -> Trial:
    return Trial(**{**raw, "levels": tuple(raw["levels"]), "curve": tuple(raw["curve"])})


def _is_alive(pid: int) -> bool:
    """Whether another process of that number runs; this one has no trial open."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _open(storage: str | Path) -> optuna.storages.BaseStorage:
    """Open a database by its URL, or a journal file, which is made if it is not there."""
    if "://" in str(storage):
        return optuna.storages.get_storage(str(storage))
    path = Path(storage)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Links need rights on Windows.
    kind = JournalFileOpenLock if os.name == "nt" else JournalFileSymlinkLock
    lock = kind(str(path))
    if path.exists():
        lock.acquire()
        try:
            _cut_torn_line(path)
        finally:
            lock.release()
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def _cut_torn_line(path: Path) -> None:
    """Cut what a killed process left of its last line, which would spoil the next one."""
    with path.open("rb+") as file:
        text = file.read()
        whole = text.rfind(b"\n") + 1
        if whole == 0 and text:
            raise LabError("search", f"{path} is no journal of a search", "choose another file")
        if whole < len(text):
            file.truncate(whole)


def _shown(storage: str | Path) -> str:
    """Return a storage's name without its password."""
    return re.sub(r"://[^@/\s]*@", "://***@", str(storage))


def _brief(value: Any) -> str:
    """Return a setting on one line: of a plan its name."""
    if isinstance(value, str) and "\n" in value:
        named = re.search(r"^name = (.*)$", value, re.MULTILINE)
        return f"{named[1]} (another text)" if named else "another text"
    return repr(value)

"""The records of finished runs that `experiments.common.kept` keeps."""

from collections.abc import Mapping, Sequence
from typing import Any

Records = Sequence[Mapping[str, Any]]


def at(records: Records, **point: Any) -> Records:
    """Those whose points have these values."""
    return [record for record in records if {**record['point'], **point} == record['point']]

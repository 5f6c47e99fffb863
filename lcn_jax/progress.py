"""Showing how a run gets on."""

import sys
import time
from collections.abc import Mapping
from typing import Any

SECONDS_BETWEEN_LINES = 10


class Progress:
    """Shows the records of `train_and_evaluate`: a bar on a terminal, else a line now and then."""

    def __init__(self, label: str):
        self._label = label
        self._bar = None
        self._last_line = -SECONDS_BETWEEN_LINES
        self._test = ''

    def __call__(self, record: Mapping[str, Any]) -> None:
        step, total = record['step'], record['total_steps']
        if 'test_top1' in record:
            self._test = f'  test {record["test_top1"]:.1%}'
        status = f'loss {record["train_loss"]:.3f}  train {record["train_top1"]:.1%}{self._test}'
        if sys.stderr.isatty():
            self._show_bar(step, total, status)
            return
        now = time.monotonic()
        if step == total or now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            rest = record['seconds'] / step * (total - step)
            print(f'{self._label}  step {step}/{total}  {status}  {rest:.0f} s left', flush=True)

    def _show_bar(self, step: int, total: int, status: str) -> None:
        import tqdm

        if self._bar is None:
            self._bar = tqdm.tqdm(total=total, desc=self._label, unit='step', dynamic_ncols=True)
        self._bar.set_postfix_str(status, refresh=False)
        self._bar.update(step - self._bar.n)
        if step == total:
            self._bar.close()

"""The progress of a run on the screen."""

import datetime
import sys
import time
from collections.abc import Mapping
from typing import Any

SECONDS_BETWEEN_LINES = 10


class Progress:
    """Shows the records of `train_and_evaluate`: a bar on a terminal, else a line now and then.

    Loss (nats) and accuracy of training, the latest accuracy of evaluation, images a second since
    the last line, and the time left at the pace since this process started. Records that a resumed
    run reports again are not shown.
    """

    def __init__(self, label: str):
        self._label = label
        self._bar = None
        self._last_line = -SECONDS_BETWEEN_LINES
        self._evaluated = ''
        self._start = self._shown = (0, 0.0)  # step, and seconds of training

    def __call__(self, record: Mapping[str, Any]) -> None:
        if 'seconds' not in record:
            return  # training diverged, and an error follows
        step, total, seconds = record['step'], record['total_steps'], record['seconds']
        for split in ('validation', 'test'):
            if f'{split}_top1' in record:
                self._evaluated = f'  {split} {record[f"{split}_top1"]:.1%}'
        if step <= record['resumed_at']:
            self._start = self._shown = step, seconds
            return
        now = time.monotonic()
        on_terminal = sys.stderr.isatty()
        if not (on_terminal or step == total or now - self._last_line >= SECONDS_BETWEEN_LINES):
            return
        self._last_line = now
        images = (step - self._shown[0]) * record['batch_size'] / (seconds - self._shown[1])
        self._shown = step, seconds
        status = (
            f'loss {record["train_loss"]:.3f}  train {record["train_top1"]:.1%}{self._evaluated}  '
            f'{images:,.0f} images/s'
        )
        if on_terminal:
            self._show_bar(step, total, status, record['resumed_at'])
            return
        pace = (seconds - self._start[1]) / (step - self._start[0])
        left = duration(pace * (total - step))
        print(f'{self._label}  step {step}/{total}  {status}  {left} left', flush=True)

    def _show_bar(self, step: int, total: int, status: str, resumed_at: int) -> None:
        import tqdm

        if self._bar is None:
            self._bar = tqdm.tqdm(
                total=total, initial=resumed_at, desc=self._label, unit='step', dynamic_ncols=True
            )
        self._bar.set_postfix_str(status, refresh=False)
        self._bar.update(step - self._bar.n)
        if step == total:
            self._bar.close()


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as 1:02:03."""
    return str(datetime.timedelta(seconds=round(seconds)))

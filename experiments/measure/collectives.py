"""The bytes that the devices of a compiled program send to each other."""

import math
import re

BYTES = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's16': 2, 'u16': 2, 'f64': 8, 's64': 8}
COLLECTIVES = 'all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute'
OPERATION = re.compile(rf' = (.+?) ({COLLECTIVES})(?:-start)?\(')
ARRAY = re.compile(r'(\w+)\[([\d,]*)\]')


def sent(hlo: str, devices: int) -> dict[str, float]:
    """Bytes that each device sends when it runs the program once, by operation.

    Args:
      hlo: the text of a compiled program (`compiled.as_text()`) without loops around collectives.
      devices: their number N. All of them take part in every operation, as a ring. For an array
        that has b bytes on each device after the operation, a device sends 2 b (N - 1) / N in an
        all-reduce, b (N - 1) / N in an all-gather, and (N - 1) b in a reduce-scatter, which leaves
        it one part of N. In an all-to-all it keeps one part of N and sends the others.
    """
    others = devices - 1
    times = {
        'all-reduce': 2 * others / devices,
        'all-gather': others / devices,
        'all-to-all': others / devices,
        'reduce-scatter': others,
        'collective-permute': 1,
    }
    found: dict[str, float] = {}
    for result, operation in OPERATION.findall(hlo):
        size = sum(_bytes(kind, shape) for kind, shape in ARRAY.findall(result))
        found[operation] = found.get(operation, 0) + times[operation] * size
    return found


def _bytes(kind: str, shape: str) -> int:
    return BYTES.get(kind, 4) * math.prod(int(n) for n in shape.split(',') if n)

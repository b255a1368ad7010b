"""Returns something that was never awaited."""


async def later():
    return None


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    return later()

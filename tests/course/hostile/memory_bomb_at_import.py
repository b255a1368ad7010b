"""Takes memory while it is imported."""

kept = []
while True:
    kept.append(bytearray(1 << 26))
